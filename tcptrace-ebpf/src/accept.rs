//! Who reports that a connection was accepted: `tcptrace_common::proto::accept` on the word `accept` of the
//! socket's record.
//!
//! Where programs cannot exchange words (before 5.12), two CPUs may change it at once. They meet only if the
//! accept hook runs after the system call: the others hold the socket's lock.

use core::ptr::read_volatile;

use tcptrace_common::{
    config::EMIT_ACCEPT,
    proto::accept::{self, Progress},
    record::{ROLE_CLIENT, ROLE_LISTENER},
};

use crate::{
    atomic::{exchange, exchange_if},
    constants::config,
    sock::Sock,
};

/// Which owner a record names, and whether it reports the accept.
#[derive(Clone, Copy)]
pub(crate) struct Accepted {
    /// Index of the owner in force: 1 once somebody has accepted
    pub slot: u8,
    /// 1: the record reports the accept
    pub reported: u8,
}

/// Changes may come between three times at most: the word only moves on.
const TRIES: u32 = 4;

/// Makes one change of the word.
#[inline(always)]
fn change(sock: *mut Sock, to: impl Fn(Progress) -> (Progress, bool)) -> bool {
    // SAFETY: the callers' live record.
    let word = unsafe { &raw mut (*sock).accept };
    // SAFETY: a live word.
    let mut before = unsafe { read_volatile(word) };
    let mut does = false;
    for _ in 0..TRIES {
        let (after, then) = to(Progress(before));
        does = then;
        if after.0 == before {
            break;
        }
        // SAFETY: a live, aligned word.
        let found = unsafe { exchange_if(word, before, after.0) };
        if found == before {
            break;
        }
        before = found;
    }
    does
}

/// Whether the accept of this connection may be reported at all.
#[inline(always)]
fn is_wanted(sock: &Sock) -> bool {
    config!(emit) & EMIT_ACCEPT != 0 && sock.role != ROLE_CLIENT && sock.role != ROLE_LISTENER
}

/// What the record that the caller is about to make says of the accept. `last`: it is the connection's last.
#[inline(always)]
pub(crate) fn before_record(sock: &mut Sock, last: bool) -> Accepted {
    let reports = if !is_wanted(sock) {
        false
    } else if last {
        // SAFETY: a live, aligned word. A full barrier: the acceptor is read afterwards.
        let before = unsafe { exchange(&raw mut sock.accept, Progress::DONE.0) };
        accept::last(Progress(before)).1
    } else {
        change(sock, accept::next)
    };
    seen(sock, reports)
}

/// Who is in force, read once, so that all of a record is from before the accept or from after it.
#[inline(always)]
fn seen(sock: &Sock, reports: bool) -> Accepted {
    // SAFETY: a live field, which an accept hook writes.
    let slot = unsafe { read_volatile(&raw const sock.slot) } & 1;
    // One that was open at start has been accepted at no time that is known.
    let reported = u8::from(reports) & slot & u8::from(sock.accept_ns != 0);
    Accepted { slot, reported }
}

/// The record is made. True if the accept was left to the caller meanwhile, who then reports it at once.
#[inline(always)]
pub(crate) fn after_record(sock: &mut Sock) -> bool {
    is_wanted(sock) && change(sock, accept::sent)
}

/// What a record that the caller may have to throw away says of the accept.
#[inline(always)]
pub(crate) fn of(sock: &Sock) -> Accepted {
    // SAFETY: a live word.
    let progress = Progress(unsafe { read_volatile(&raw const sock.accept) });
    seen(sock, is_wanted(sock) && progress == Progress::LEFT)
}

/// The accept hook has written the acceptor. True if it has to report it by a record of its own; otherwise
/// whoever sends the steps does.
#[inline(always)]
pub(crate) fn accepted(sock: &mut Sock) -> bool {
    let can = sock.tuple.whole != 0 && sock.conn != 0;
    change(sock, |progress| accept::accepted(progress, can))
}

/// The next record reports the accept.
#[inline(always)]
pub(crate) fn leave(sock: &mut Sock) {
    change(sock, |progress| accept::accepted(progress, false));
}

/// The accept hook's own record has its place in the ring. False if it is to be thrown away.
///
/// `sock` is live.
#[inline(always)]
pub(crate) fn claim(sock: *mut Sock) -> bool {
    change(sock, accept::claim)
}
