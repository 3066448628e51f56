//! `tcp:tcp_send_reset`, `tcp:tcp_receive_reset`: an RST leaves or comes.
//!
//! Prototypes: `(const struct sock *sk, const struct sk_buff *skb)`, since 6.12 with
//! `const enum sk_rst_reason reason`; `sk` may be null. `(struct sock *sk)`.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{
    config::EMIT_RESET,
    count,
    layout::ABSENT,
    record::{
        ABORT_LATE_DATA, FLAG_INFERRED, KIND_RESET, RESET_EITHER, RESET_RECEIVED, RESET_SENT,
        UNKNOWN,
    },
    tcp,
};

use crate::{
    constants::{config, off},
    emit,
    kernel::{self, Object as _, Probed},
    maps::SOCKS,
    preempt, publish,
    timewait::TimeWait,
};

/// In `sk_shutdown` (include/net/sock.h)
const RCV_SHUTDOWN: u8 = 1;
/// Longer than a segment takes, unless its CPU is taken away for as long meanwhile: 10 ms at 1000 Hz.
const MOMENT_TICKS: u32 = 10;
/// Where a TCP header has its flags, and the flag of a SYN in them (RFC 9293, section 3.1)
const TH_FLAGS: u32 = 13;
const TH_SYN: u8 = 2;

#[btf_tracepoint(function = "tcp_send_reset")]
pub(crate) fn reset_sent(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    let reason = if config!(reset_reason) != 0 {
        ctx.arg::<u32>(2)
    } else {
        UNKNOWN
    };
    let sk = ctx.arg::<*const u8>(0);
    // From 6.13 on the verifier wants to see this before it lets the address be calculated with.
    if sk.is_null() {
        return 0;
    }
    note(
        sk as u64,
        RESET_SENT,
        reason,
        ctx.arg::<*const u8>(1) as u64,
    );
    0
}

#[btf_tracepoint(function = "tcp_receive_reset")]
pub(crate) fn reset_received(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    let address = ctx.arg::<*const u8>(0) as u64;
    let direction = if may_be_data(Probed(kernel::number(address))) {
        RESET_EITHER
    } else {
        RESET_RECEIVED
    };
    note(address, direction, UNKNOWN, 0);
    0
}

/// Whether what came to this socket may have been data: after our `close()` nobody can read them, and
/// `tcp_rcv_state_process` answers with an RST, but not before it has called `tcp_reset` as if one had come.
/// Before that it has taken the ACK that came with them (`tcp_ack`), a moment ago; that of an RST it does
/// not.
#[inline(always)]
fn may_be_data(sk: Probed) -> bool {
    let state: u8 = sk.read(off!(sk_state));
    if (state != tcp::FIN_WAIT1 && state != tcp::FIN_WAIT2)
        || sk.read::<u8>(off!(sk_shutdown)) & RCV_SHUTDOWN == 0
    {
        return false;
    }
    if off!(tp_rcv_tstamp) == ABSENT {
        return true;
    }
    let since_ack = (kernel::jiffies() as u32).wrapping_sub(sk.read(off!(tp_rcv_tstamp)));
    since_ack <= MOMENT_TICKS
}

/// Whether a segment asks for another connection. Its header is behind us by now, and still there.
#[inline(always)]
fn is_syn(skb: Probed) -> bool {
    if skb.0 == 0 || off!(skb_head) == ABSENT || off!(skb_transport_header) == ABSENT {
        return true;
    }
    let header =
        skb.read::<u64>(off!(skb_head)) + u64::from(skb.read::<u16>(off!(skb_transport_header)));
    Probed(header).read::<u8>(TH_FLAGS) & TH_SYN != 0
}

/// `skb`: what the RST answers, or 0.
#[inline(always)]
fn note(address: u64, direction: u8, reason: u32, skb: u64) {
    let in_time_wait = Probed(kernel::number(address)).read::<u8>(off!(sk_state)) == tcp::TIME_WAIT;
    // A time-wait socket sends them, too.
    let key = if in_time_wait {
        TimeWait::at(address).key()
    } else {
        address
    };
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a live record; `counters.reset` is this hook's alone.
    let sock = unsafe { &mut *pointer };
    // What we send before the handshake is complete answers a wrong acknowledgment, and the socket goes
    // on (`tcp_rcv_synsent_state_process`, `tcp_rcv_state_process`, `tcp_check_req`). What ends it there
    // as well leaves an error, or sends its RST afterwards (`tcp_disconnect`).
    let opening = sock.state() == tcp::SYN_SENT || sock.state() == tcp::SYN_RECV;
    let ends_nothing = direction == RESET_SENT && opening;
    if sock.counters.reset == 0 && !ends_nothing {
        sock.counters.reset = direction;
        // What a time-wait socket that waits for the peer's FIN answers so is data, or the FIN behind
        // some (`tcp_timewait_state_process`).
        if in_time_wait && direction == RESET_SENT && !is_syn(Probed(kernel::number(skb))) {
            sock.counters.abort = ABORT_LATE_DATA;
        }
    }
    let now_ns = kernel::now_ns();
    if config!(emit) & EMIT_RESET == 0 || !publish::complete(key, sock) {
        return;
    }
    emit::detail(
        sock,
        &sock.tuple,
        KIND_RESET,
        now_ns,
        count::RING_FULL_DETAIL,
        |head, numbers| {
            head.seq = direction;
            if direction == RESET_EITHER {
                head.seq = RESET_RECEIVED;
                head.flags |= FLAG_INFERRED;
            }
            numbers[0] = reason;
        },
    );
}
