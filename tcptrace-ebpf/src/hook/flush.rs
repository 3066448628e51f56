//! Run by the agent for a socket whose first step has waited too long for its port.
//!
//! The kernel reports `CLOSE` to `SYN_SENT` before it chooses the port
//! (`tcp_v4_connect`, `tcp_v6_connect`). The next transition
//! normally follows within microseconds to milliseconds; when the peer does not answer, it may
//! take two minutes.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use tcptrace_common::{
    config::EMIT_TRANSITION,
    count,
    record::{ROLE_LISTENER, Record},
};

use crate::{
    constants::config,
    emit, filter,
    kernel::Probed,
    maps::{self, EVENTS, PENDING, SOCKS},
    publish,
    tuple::Tuple,
};

#[raw_tracepoint]
pub(crate) fn flush(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the kernel passes the agent's arguments as an array of twelve words
    // (bpf_prog_test_run_raw_tp).
    let key = unsafe { *ctx.as_ptr().cast::<u64>() };
    let sk = Probed(key);
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        if PENDING.remove(key).is_ok() {
            maps::count(count::DEFERRED_SENT, 1);
        }
        return 0;
    };
    // SAFETY: a live record, only read. If it is replaced meanwhile, the entry in `PENDING` is
    // gone, and what was read is thrown away below.
    let sock = unsafe { &*pointer };
    if sock.path_len != 1 || sock.sent != 0 {
        return 0;
    }
    // `listen()` on a socket without a port reports LISTEN before it chooses one, too.
    let tuple = Tuple::read(sk, sock.role == ROLE_LISTENER, || 0);
    // A Fast Open child has an id with its final ACK only.
    if tuple.whole == 0 || sock.conn == 0 {
        return 0;
    }
    let wanted = config!(emit) & EMIT_TRANSITION != 0 && filter::tuple::takes(&tuple);
    let Some(mut slot) = EVENTS.reserve::<Record>(0) else {
        return 0;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    emit::fill(record, sock, &tuple);
    emit::fill_step(record, sock, 0);
    let same = publish::is_still(sk, record.conn);
    // The place in the ring is taken before the entry is: who finds the entry gone comes later.
    let ours = same && PENDING.remove(key).is_ok();
    if ours {
        maps::count(count::DEFERRED_SENT, 1);
    }
    if ours && wanted {
        slot.submit(u64::from(BPF_RB_FORCE_WAKEUP));
    } else {
        slot.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
    0
}
