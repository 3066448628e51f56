//! When a step of a socket's path may be shown, and by whom.
//!
//! Steps are shown in order, once, when the four-tuple is whole and the filter has taken the
//! connection. The socket's own lock orders `hook::set_state` calls for one socket. Others may meet
//! them: `hook::flush`, run by the agent, and an accept hook that does not hold the accepted socket's lock.

use aya_ebpf::bindings::BPF_NOEXIST;
use tcptrace_common::{
    config::EMIT_TRANSITION,
    count,
    record::{ROLE_LISTENER, ROLE_SERVER},
    tcp,
};

use crate::{
    accept,
    constants::{config, off},
    emit, filter,
    kernel::{Object as _, Probed},
    listener,
    maps::{self, LOCKS, PENDING, SOCKS},
    phase,
    sock::{LIVE, NO_FASTOPEN, Sock, UNLISTED, WAITING},
    tuple::Tuple,
};

/// Sends every step not yet sent.
#[inline(always)]
fn send(sock: &mut Sock) {
    let from = sock.sent;
    // SAFETY: a live field of the record; read once, because with `-p` the path may grow meanwhile.
    let len = unsafe { core::ptr::read_volatile(&raw const sock.path_len) };
    if from < len {
        sock.sent = len;
        let last = tcp::is_end(sock.step(len.wrapping_sub(1)).state());
        let accepted = accept::before_record(sock, last);
        if !emit::steps(sock, from, len, accepted) && accepted.reported != 0 {
            // Nothing else is wanted of it.
            report_accept(sock);
        }
        sock.unseen_steps = 0;
        if !last && accept::after_record(sock) {
            report_accept(sock);
        }
    }
}

/// Reports the accept by a record of its own. A function of its own: it is seldom called.
#[inline(never)]
fn report_accept(sock: &mut Sock) {
    if sock.tuple.whole != 0 && sock.conn != 0 && sock.accept_ns != 0 {
        emit::accept(sock, sock.accept_ns, sock.backlog, || true);
    }
}

/// Sends what may be shown of a socket whose lock the caller holds, and defers the rest.
#[inline(always)]
pub(crate) fn publish(key: u64, sock: &mut Sock, now_ns: u64) {
    if is_contended(sock) {
        contended(key, sock);
        return;
    }
    if !filter::is_shown(sock) {
        return;
    }
    // Without Fast Open the final ACK that made this socket takes it to its next state at once, in
    // the same softirq: one record tells of both.
    if sock.state() == tcp::SYN_RECV && sock.flags & NO_FASTOPEN != 0 {
        leave(sock);
        return;
    }
    if sock.tuple.whole == 0 && !sock.has_ended() {
        wait(key, sock, now_ns);
        return;
    }
    release(key, sock);
}

/// Sends what has not been sent, before the socket is freed or something else is told of it.
#[inline(always)]
pub(crate) fn finish(key: u64, sock: &mut Sock) {
    if is_contended(sock) {
        contended(key, sock);
    } else {
        release(key, sock);
    }
}

/// Whether an accept hook may send of this socket as well.
#[inline(always)]
fn is_contended(sock: &Sock) -> bool {
    filter::decides_at_accept() && sock.role == ROLE_SERVER
}

/// Sends what has not been sent of a socket whose lock the caller holds.
///
/// A function of its own: it is reached from so many places that copies of it would be half of the
/// programs. The verifier follows a record, whose type is the map's, into it.
#[inline(never)]
fn release(key: u64, sock: &mut Sock) {
    if sock.flags & UNLISTED != 0 {
        sock.flags &= !UNLISTED;
        maps::count(count::UNLISTED_SENT, 1);
    }
    if sock.flags & WAITING != 0 {
        sock.flags &= !WAITING;
        // Whoever removes the entry sends the first step. If it is gone, `hook::flush` took it,
        // and took its place in the ring before that: ours comes after it.
        if PENDING.remove(key).is_ok() {
            maps::count(count::DEFERRED_SENT, 1);
        } else {
            sock.sent = 1;
        }
    }
    send(sock);
}

/// For a record in mid-state: reads the four-tuple if it is missing, and sends the step that waits
/// for it. Returns whether the connection is to be shown. The caller holds the socket's lock.
#[inline(always)]
pub(crate) fn complete(key: u64, sock: &mut Sock) -> bool {
    if sock.conn == 0 {
        return false;
    }
    if !filter::is_shown(sock) {
        return false;
    }
    if sock.tuple.whole == 0 {
        let tuple = Tuple::read(Probed(key), sock.role == ROLE_LISTENER, || 0);
        if tuple.whole == 0 || !filter::tuple::takes(&tuple) {
            return false;
        }
        sock.tuple = tuple;
    }
    if sock.sent < sock.path_len {
        finish(key, sock);
    }
    true
}

/// Whether at this address is still the socket that a record with this id is of. Asked after something
/// was read of it: who gets its memory begins without a cookie.
#[inline(always)]
pub(crate) fn is_still(sk: Probed, conn: u64) -> bool {
    if config!(cookie_helper) != 0 {
        sk.read::<u64>(off!(sk_cookie)) == conn
    } else {
        // Each end and each beginning is seen.
        !phase::is_over()
    }
}

/// Leaves the first step for later: for the next transition, or for `hook::flush`.
#[inline(always)]
fn wait(key: u64, sock: &mut Sock, now_ns: u64) {
    let wanted = config!(emit) & EMIT_TRANSITION != 0;
    if !wanted || sock.flags & (WAITING | UNLISTED) != 0 || sock.path_len != 1 {
        return;
    }
    if PENDING.insert(key, now_ns, 0).is_ok() {
        sock.flags |= WAITING;
        maps::count(count::DEFERRED, 1);
        emit::wake_agent();
    } else {
        leave(sock);
    }
}

/// Leaves the first step for the next transition.
#[inline(always)]
fn leave(sock: &mut Sock) {
    if config!(emit) & EMIT_TRANSITION != 0 {
        sock.flags |= UNLISTED;
        maps::count(count::UNLISTED, 1);
    }
}

/// Removes a record that nobody wants, and what waits for it.
#[inline(always)]
pub(crate) fn drop_record(key: u64, sock: &mut Sock) {
    unlist(key, sock);
    if sock.role == ROLE_LISTENER {
        listener::end(key);
    }
    let _gone = SOCKS.remove(key);
}

/// Another socket has taken the place of this one, whose end the kernel hid from us: what it has not
/// told it never will.
#[inline(always)]
pub(crate) fn replaced(key: u64, sock: &mut Sock) {
    let flushed = unlist(key, sock);
    if filter::is_shown(sock) && sock.life == LIVE {
        let ended = sock.state() != tcp::CLOSE && sock.is_reported();
        maps::count(count::UNSEEN, u64::from(ended));
        if config!(emit) & EMIT_TRANSITION != 0 {
            let untold = sock
                .path_len
                .wrapping_sub(sock.sent)
                .wrapping_sub(sock.unseen_steps)
                .wrapping_sub(u8::from(flushed));
            maps::count(count::UNTOLD, u64::from(untold));
        }
    }
}

/// Removes what waits for a record that is about to be replaced or removed. Returns whether its first
/// step waited and `hook::flush` has sent it.
#[inline(always)]
pub(crate) fn unlist(key: u64, sock: &Sock) -> bool {
    if sock.flags & UNLISTED != 0 {
        maps::count(count::UNLISTED_SENT, 1);
    }
    if sock.flags & WAITING == 0 {
        return false;
    }
    let waits = PENDING.remove(key).is_ok();
    maps::count(count::DEFERRED_SENT, u64::from(waits));
    !waits
}

/// Sends what may be shown when an accept hook and `hook::set_state` can meet on one socket: one
/// that runs after the system call does not hold the socket's lock.
///
/// Each side first leaves what it has to say in the record (a step, or the decision), then tries
/// the lock. Who gets it sends everything; who does not leaves it to the holder, which looks
/// again after it has let go.
#[inline(always)]
pub(crate) fn contended(key: u64, sock: &mut Sock) {
    for _ in 0..2 {
        if LOCKS.insert(key, 1, u64::from(BPF_NOEXIST)).is_err() {
            return;
        }
        let shown = filter::is_shown(sock);
        let before = sock.path_len;
        if shown && (sock.tuple.whole != 0 || sock.state() == tcp::CLOSE) {
            send(sock);
        }
        if LOCKS.remove(key).is_err() {
            return;
        }
        let shown_now = filter::is_shown(sock);
        // SAFETY: a live field of the record; volatile, because another CPU writes it.
        let len_now = unsafe { core::ptr::read_volatile(&raw const sock.path_len) };
        if shown_now == shown && len_now == before {
            return;
        }
    }
}
