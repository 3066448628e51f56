//! What a socket's memory says of how it ends, read as it leaves its last state. What follows from it the
//! agent works out (`event::evidence`).

use tcptrace_common::{
    layout::ABSENT,
    record::{
        ABORT_DISCONNECT, ABORT_LINGER, ABORT_UNREAD, ACT_CLOSE, ACT_EXIT, ACT_KILLED,
        ACT_SHUTDOWN, END_ACKED, END_ERROR_BEFORE, END_HELD, END_QUEUED, END_READ, END_SHUT_BEFORE,
        END_SOFT, KNOWN_COUNTERS, ROLE_LISTENER,
    },
    tcp,
};

use crate::{
    constants::off,
    counters, handover,
    kernel::{Object as _, Probed, Typed, Walked},
    owner,
    sock::Sock,
};

/// In `sk_shutdown` (include/net/sock.h)
const SHUTDOWN_MASK: u8 = 3;
/// In `sk_flags` (`enum sock_flags`, include/net/sock.h): nobody has it any more
const SOCK_DEAD: u64 = 1;
/// In `sk_flags`: the peer's FIN has come
const SOCK_DONE: u64 = 1 << 1;
/// In `sk_flags`: `SO_LINGER` is on
const SOCK_LINGER: u64 = 1 << 4;
/// In `task_struct.flags` (include/linux/sched.h): it exits
const PF_EXITING: u32 = 4;
/// In an exit code: the signal that ended the process (`wait(2)`)
const SIGNAL_MASK: u32 = 0x7f;

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;

/// Notes what the socket has before its life begins: the kernel clears its error when it sends the SYN, and
/// what was shut never.
#[inline(always)]
pub(crate) fn before(sk: Typed, sock: &mut Sock) {
    let shut = sk.read::<u8>(off!(sk_shutdown)) & SHUTDOWN_MASK == SHUTDOWN_MASK;
    let failed = sk.read::<u32>(off!(sk_err)) != 0;
    sock.counters.end = (u8::from(shut) * END_SHUT_BEFORE) | (u8::from(failed) * END_ERROR_BEFORE);
}

/// Reads it, with the counters of that moment. `old`: the state that it leaves.
#[inline(always)]
pub(crate) fn read(sk: Typed, sock: &mut Sock, old: u8) {
    sock.err = sk.read(off!(sk_err));
    sock.shutdown = sk.read(off!(sk_shutdown));
    if sock.role == ROLE_LISTENER {
        return;
    }
    counters::read(sk, &mut sock.counters);
    let held = !sk.read::<*const u8>(off!(sk_socket)).is_null();
    let mut end = END_READ | (u8::from(held) * END_HELD);
    if !held && sk.read::<u64>(off!(sk_flags)) & SOCK_DEAD == 0 && is_released(sock.listener) {
        end |= END_QUEUED;
    }
    if sock.err != 0 && sk.read::<u32>(off!(sk_err_soft)) == sock.err {
        end |= END_SOFT;
    }
    if (old == tcp::LAST_ACK || old == tcp::CLOSING) && counters::is_acknowledged(sk) {
        end |= END_ACKED;
    }
    sock.counters.end |= end;
    if held {
        sock.counters.abort = abort(sk);
    }
}

/// How the process that has locked a socket aborts it, if it does: what `__tcp_close` looks at, in its order,
/// while no reference to the socket's file is left; as long as one is left, the process calls
/// `tcp_disconnect`. What an upper layer does, as MPTCP with its subflows, is not looked into.
#[inline(never)]
fn abort(sk: Typed) -> u8 {
    let layered = off!(icsk_ulp_data) != ABSENT && sk.probe(off!(icsk_ulp_data)).address() != 0;
    if layered || !owner::proven(sk) {
        return 0;
    }
    match handover::references_left(sk) {
        None => 0,
        Some(0) => {
            if off!(tp_copied_seq) == ABSENT
                || off!(tp_rcv_nxt) == ABSENT
                || off!(sk_lingertime) == ABSENT
            {
                return 0;
            }
            let flags = sk.read::<u64>(off!(sk_flags));
            let tp = Probed(sk.address());
            let received: u32 = tp.read(off!(tp_rcv_nxt));
            // The peer's FIN has a number of its own, and is no data.
            let fin = u32::from(flags & SOCK_DONE != 0);
            let unread = received
                .wrapping_sub(tp.read(off!(tp_copied_seq)))
                .cast_signed();
            if unread > fin.cast_signed() {
                ABORT_UNREAD
            } else if flags & SOCK_LINGER != 0 && sk.read::<u64>(off!(sk_lingertime)) == 0 {
                ABORT_LINGER
            } else {
                0
            }
        }
        Some(_) if sk.read::<u8>(off!(sk_shutdown)) & SHUTDOWN_MASK == SHUTDOWN_MASK => 0,
        Some(_) => ABORT_DISCONNECT,
    }
}

/// By what the running process ends our side of a connection, whose socket it has locked. `new`: the state
/// that follows.
#[inline(never)]
pub(crate) fn act(sk: Typed, new: u8) -> u8 {
    let Some(left) = handover::references_left(sk) else {
        return 0;
    };
    if left != 0 {
        // `tcp_disconnect` leads to `CLOSE` at once.
        return if new == tcp::CLOSE { 0 } else { ACT_SHUTDOWN };
    }
    let task = Walked::current_task();
    if task.read::<u32>(off!(task_flags)) & PF_EXITING == 0 {
        return ACT_CLOSE;
    }
    if off!(task_exit_code) == ABSENT {
        return 0;
    }
    // Set before the files are given back (`do_exit`).
    let signal = task.read::<u32>(off!(task_exit_code)) & SIGNAL_MASK;
    if signal == 0 {
        ACT_EXIT
    } else {
        ACT_KILLED | signal as u8
    }
}

/// Whether the listener of a connection in its queue listens no more. The connection's request holds it
/// (`reqsk_alloc`).
#[inline(always)]
fn is_released(listener: u64) -> bool {
    listener != 0 && Probed(listener).read::<u8>(off!(sk_state)) != tcp::LISTEN
}

/// Whether a process ends the socket's life, if one has its lock: `tcp_close` shuts both ways before it
/// changes the state, and `tcp_disconnect` leaves no error. A reset that a reader's backlog brings in does
/// so only afterwards (`tcp_done`), but it leaves an error first.
#[inline(always)]
pub(crate) fn is_closed(sock: &Sock, old: u8) -> bool {
    let counters = &sock.counters;
    if sock.shutdown & SHUTDOWN_MASK == SHUTDOWN_MASK && counters.end & END_SHUT_BEFORE == 0 {
        return true;
    }
    // `connect()` that finds no port closes nothing (`tcp_v4_connect`), and leaves the error of the life before.
    if old == tcp::SYN_SENT && counters.known & KNOWN_COUNTERS != 0 && counters.tx_segs == 0 {
        return false;
    }
    sock.err == 0 || is_pending(sock, old)
}

/// Whether its error is of an ICMP message that ended nothing, and waits to be read (`IP_RECVERR`).
#[inline(always)]
fn is_pending(sock: &Sock, old: u8) -> bool {
    let err = sock.err;
    let ends = err == ETIMEDOUT || err == ECONNRESET || err == EPIPE || err == ECONNABORTED;
    let opening = old == tcp::SYN_SENT || old == tcp::SYN_RECV;
    !ends && !opening && sock.counters.end & END_SOFT == 0
}
