//! Run by the agent once a second for each listener: tells what goes wrong there.
//!
//! `sk_drops` of a listener counts requests and connections it had no room for (`tcp_listendrop`);
//! the queues are `sk_ack_backlog` (`inet_csk_reqsk_queue_add`) and `icsk_accept_queue.qlen`.

use aya_ebpf::{EbpfContext as _, macros::raw_tracepoint, programs::RawTracePointContext};
use tcptrace_common::tcp;

use crate::{
    constants::off,
    emit,
    filter::{self, Decision},
    keeper,
    kernel::{self, Object as _, Probed},
    maps::{BACKLOGS, SOCKS},
};

#[raw_tracepoint]
pub(crate) fn backlog(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the kernel passes the agent's arguments as an array of twelve words
    // (bpf_prog_test_run_raw_tp).
    let key = unsafe { *ctx.as_ptr().cast::<u64>() };
    let (Some(pointer), Some(told)) = (SOCKS.get_ptr_mut(key), BACKLOGS.get_ptr_mut(key)) else {
        return 0;
    };
    // SAFETY: a live record. Whoever takes its owner away writes the same.
    let sock = unsafe { &mut *pointer };
    keeper::forget_gone(sock);
    // Also where connections are chosen by what becomes of them.
    let wanted = filter::owner_at_end(sock) == Decision::Show;
    if sock.state() != tcp::LISTEN || !wanted || sock.tuple.whole == 0 {
        return 0;
    }
    // SAFETY: a live record; what is told is this program's alone.
    let told = unsafe { &mut *told };
    let sk = Probed(key);
    let queued: u32 = sk.read(off!(sk_ack_backlog));
    let limit: u32 = sk.read(off!(sk_max_ack_backlog));
    let half_open: u32 = sk.read(off!(icsk_qlen));
    let drops: u32 = sk.read(off!(sk_drops));
    let dropped = drops.wrapping_sub(told.drops_reported);
    let unanswered = told.unanswered.wrapping_sub(told.unanswered_reported);
    // `sk_acceptq_is_full` allows one more than the limit.
    if dropped == 0 && unanswered == 0 && queued <= limit && half_open <= limit / 2 {
        return 0;
    }
    told.drops_reported = drops;
    told.unanswered_reported = told.unanswered;
    // Before the clock: somebody may be accepting right now.
    // SAFETY: a live field, which an acceptor writes.
    let accept_ns = unsafe { core::ptr::read_volatile(&raw const told.accept_ns) };
    let now_ns = kernel::now_ns();
    emit::listener(sock, now_ns, &mut told.origins, |head, numbers| {
        if accept_ns != 0 {
            head.span_ns = now_ns.saturating_sub(accept_ns);
        }
        numbers[0] = queued;
        numbers[1] = limit;
        numbers[2] = half_open;
        numbers[3] = dropped;
        numbers[4] = unanswered;
    });
    1
}
