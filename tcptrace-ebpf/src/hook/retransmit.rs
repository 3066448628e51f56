//! `tcp:tcp_retransmit_skb`, `tcp:tcp_retransmit_synack`: a segment is sent again.
//!
//! Prototypes: `(const struct sock *sk, const struct sk_buff *skb)`, since 6.17 with `int err`;
//! `(const struct sock *sk, const struct request_sock *req)`, `sk` the listener, or the child that Fast Open
//! has made already (`tcp_fastopen_synack_timer`).

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{
    config::{EMIT_LISTENER, EMIT_RETRANSMIT},
    count,
    layout::ABSENT,
    record::{KIND_RETRANSMIT, RETRANSMIT_DATA, RETRANSMIT_SYN, RETRANSMIT_SYNACK, ROLE_LISTENER},
    tcp,
};

use crate::{
    constants::{config, off},
    counters, emit, filter,
    kernel::{self, Object as _, Probed, Typed},
    maps::{BACKLOGS, SOCKS, SYNACKS},
    preempt, publish,
    sock::Sock,
    tuple::Tuple,
};

/// The first three bytes of an IPv4 address, and the first six of one of IPv6, in a word of memory.
const V4_24: u64 = 0x00ff_ffff;
const V6_48: u64 = 0xffff_ffff_ffff;

/// Attached only if such records are wanted: the socket counts by itself.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub(crate) fn retransmit(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    let sk = Typed(ctx.arg::<*const u8>(0));
    let Some(pointer) = SOCKS.get_ptr_mut(sk.address()) else {
        return 0;
    };
    // Since 6.17 it tells of attempts that failed as well.
    if config!(retransmit_err) != 0 && ctx.arg::<i32>(2) != 0 {
        return 0;
    }
    // SAFETY: a live record, under this socket's lock.
    let sock = unsafe { &mut *pointer };
    tell(sk, sock, counters::retransmits(sk), |state| {
        if state == tcp::SYN_SENT {
            RETRANSMIT_SYN
        } else {
            RETRANSMIT_DATA
        }
    });
    0
}

/// Keeps when the first SYN-ACK was sent: the kernel itself forgets it as the connection becomes
/// `ESTABLISHED`. And counts the requests that were not answered in time.
#[btf_tracepoint(function = "tcp_retransmit_synack")]
pub(crate) fn retransmit_synack(ctx: BtfTracePointContext) -> i32 {
    if off!(icsk_qlen) == ABSENT {
        return 0;
    }
    let _pinned = preempt::in_tracepoint();
    let sk = Typed(ctx.arg::<*const u8>(0));
    let key = sk.address();
    let req = Typed(ctx.arg::<*const u8>(1));
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: a live record; only read.
    let sock = unsafe { &*pointer };
    let before: u8 = req.read(off!(req_num_retrans));
    let mut tuple = Tuple::read(req, false, || 0);
    // Behind `struct request_sock`, where the verifier knows no type.
    let sent_us: u64 = Probed(req.address()).read(off!(req_snt_synack));
    if sent_us != 0 {
        let _full = SYNACKS.insert(&tuple.request(sock.netns), &sent_us, 0);
    }
    if let Some(backlog) = BACKLOGS.get_ptr_mut(key) {
        // SAFETY: a live record. CPUs may meet here and one addition be lost: a request then
        // counts at its next SYN-ACK or not at all.
        let backlog = unsafe { &mut *backlog };
        backlog.unanswered = backlog.unanswered.wrapping_add(u32::from(before == 0));
        if before == 0 && config!(emit) & EMIT_LISTENER != 0 {
            let mask = if tuple.family == 4 { V4_24 } else { V6_48 };
            backlog.count_origin(tuple.raddr[0] & mask, tuple.family);
        }
    }
    if config!(emit) & EMIT_RETRANSMIT == 0 {
        return 0;
    }
    if sock.role != ROLE_LISTENER {
        // By Fast Open the connection is there before its SYN-ACK is answered: the record is its own.
        // SAFETY: a live record; whoever sends for a child has its lock.
        let sock = unsafe { &mut *pointer };
        if sock.conn == 0 {
            sock.conn = kernel::cookie(sk, kernel::now_ns());
        }
        tell(sk, sock, u32::from(before) + 1, |_| RETRANSMIT_SYNACK);
        return 0;
    }
    if !filter::is_shown(sock) || !filter::tuple::takes(&tuple) {
        return 0;
    }
    // In a flood of requests that nobody completes, the `listener` record tells of them.
    let listener = Probed(key);
    let half_open: u32 = listener.read(off!(icsk_qlen));
    if half_open > listener.read::<u32>(off!(sk_max_ack_backlog)) / 2 {
        return 0;
    }
    tuple.whole = 1;
    emit::detail(
        sock,
        &tuple,
        KIND_RETRANSMIT,
        kernel::now_ns(),
        count::RING_FULL_DETAIL,
        |head, numbers| {
            head.seq = RETRANSMIT_SYNACK;
            head.old = tcp::SYN_RECV;
            head.new = tcp::SYN_RECV;
            numbers[0] = u32::from(before) + 1;
        },
    );
    0
}

/// Sends that this socket, whose lock the caller holds, has sent again, for the `count`th time. `kind`: of
/// the segment, by the socket's state.
#[inline(always)]
fn tell(sk: Typed, sock: &mut Sock, count: u32, kind: impl FnOnce(u8) -> u8) {
    let now_ns = kernel::now_ns();
    if !publish::complete(sk.address(), sock) {
        return;
    }
    emit::detail(
        sock,
        &sock.tuple,
        KIND_RETRANSMIT,
        now_ns,
        count::RING_FULL_DETAIL,
        |head, numbers| {
            head.seq = kind(head.old);
            numbers[0] = count;
        },
    );
}
