//! The user's filter, as far as the kernel can decide it.
//!
//! [`decide`] is the one place where it is decided whether a connection is shown, and the only writer of
//! `by_owner` and `by_outcome` in the record of a socket. A filter is a file of this folder that says what it
//! takes; what it needs to know decides the stage at which it is asked:
//!
//! | filter | asked | file |
//! |---|---|---|
//! | role | before there is a record, and when the role becomes known | [`role`] |
//! | network namespace | before there is a record | [`netns`] |
//! | addresses, ports | when the four-tuple is complete | [`tuple`], [`address`] |
//! | owner | when the owner becomes known: birth, accept, end | [`owner`] |
//! | outcome | at each step, and at accept | [`outcome`] |

mod address;
pub(crate) mod netns;
pub(crate) mod outcome;
pub(crate) mod owner;
pub(crate) mod pattern;
pub(crate) mod role;
pub(crate) mod tuple;

use core::ptr::read_volatile;

use tcptrace_common::{
    record::{Owner, ROLE_LISTENER, ROLE_SERVER, SOURCE_SNAPSHOT},
    tcp,
};

use crate::{phase, sock::Sock};

/// What becomes of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Decision {
    /// It is not known yet: nothing of it is sent. A listener that nobody asked for stays here, since its
    /// children take their owner from its record.
    Wait = 0,
    /// It is shown
    Show = 1,
    /// Nobody wants it: its record goes
    Drop = 2,
}

use Decision::{Drop, Show, Wait};

/// When a decision is made, by whoever has the lock of the socket; an accept hook may be without it.
#[derive(Clone, Copy)]
pub(crate) enum Stage {
    /// The record is made and has its role, and its owner if that is who opened it. Of a `child` the owner
    /// is known at accept
    Birth {
        /// Made by a listener
        child: bool,
    },
    /// First seen half-way, without its owner
    Midway,
    /// The four-tuple is complete
    Tuple,
    /// It has entered the state `new`
    Step {
        /// The state
        new: u8,
        /// When
        now_ns: u64,
    },
    /// `accept()` returned it to `owners[1]`
    Accept {
        /// When
        now_ns: u64,
    },
    /// The socket is about to be freed: nothing else becomes known
    End,
    /// Found at start, in this role as far as is known
    Found,
    /// Found at start, and all who hold its file are known
    Listed,
}

/// Decides what becomes of the connection, as far as is known at this stage. The caller removes the record of
/// one that is dropped, except after an accept: see [`is_dropped`].
#[inline(always)]
pub(crate) fn decide(stage: Stage, sock: &mut Sock) -> Decision {
    match stage {
        Stage::Birth { child } => {
            // Only a listener gets here in a role that nobody asked for.
            let takes = role::takes(sock.role)
                && (!owner::is_on() || (!child && owner::takes(&sock.owners[0])));
            by_owner(sock, if takes { Show } else { Wait })
        }
        Stage::Midway => by_owner(sock, Show),
        Stage::Tuple => {
            if tuple::takes(&sock.tuple) {
                Show
            } else if sock.role == ROLE_LISTENER {
                by_owner(sock, Wait)
            } else {
                Drop
            }
        }
        Stage::Step { new, now_ns } => {
            let decision = outcome::at_step(sock, new, now_ns);
            by_outcome(sock, decision)
        }
        Stage::Accept { now_ns } => at_accept(sock, now_ns),
        Stage::End => {
            let decision = owner_at_end(sock);
            by_owner(sock, decision);
            by_outcome(sock, outcome::at_end(sock))
        }
        Stage::Found => found(sock),
        Stage::Listed => listed(sock),
    }
}

/// Whether a connection that begins may come to be shown, before there is a record of it. `opener`: who connects
/// or listens, if a process does; `of_ours`: it is a child of a listener that has a record.
#[inline(always)]
pub(crate) fn admits(role: u8, opener: &Owner, of_ours: bool) -> bool {
    // A listener's record is needed for the owner of its children.
    if role != ROLE_LISTENER && !role::takes(role) {
        return false;
    }
    // The listeners that have a record are those that a process asked for has. It may accept from another,
    // that was passed to it.
    !owner::is_on()
        || of_ours
        || owner::takes(opener)
        || ((role == ROLE_SERVER || role == ROLE_LISTENER) && phase::takes_any_listener())
}

/// Whether a connection that is first seen half-way, without its owner, may come to be shown.
#[inline(always)]
pub(crate) fn admits_midway(role: u8) -> bool {
    // How long it took to connect nobody knows.
    !owner::is_on() && !outcome::is_slow_on() && role::takes(role)
}

/// Whether it may be decided only at accept whether a server's connection is shown: then nothing of it is sent
/// before.
#[inline(always)]
pub(crate) fn decides_at_accept() -> bool {
    owner::is_on() || outcome::is_on()
}

/// Whether it is shown, as far as is known now. Another CPU may be deciding.
#[inline(always)]
pub(crate) fn is_shown(sock: &Sock) -> bool {
    // SAFETY: a live field.
    let by_owner = unsafe { read_volatile(&raw const sock.by_owner) };
    // SAFETY: a live field.
    let by_outcome = unsafe { read_volatile(&raw const sock.by_outcome) };
    by_owner == Show as u8 && (!outcome::is_on() || by_outcome == Show as u8)
}

/// Whether an accept hook, which had not this socket's lock, has found that nobody wants it: whoever has the
/// lock next removes the record.
#[inline(always)]
pub(crate) fn is_dropped(sock: &Sock) -> bool {
    (owner::is_on() || outcome::is_slow_on())
        && (sock.by_owner == Drop as u8 || sock.by_outcome == Drop as u8)
}

/// What [`Stage::End`] decides by the owner: of a connection that was never accepted, the listener's owner is
/// the only owner it had.
#[inline(always)]
pub(crate) fn owner_at_end(sock: &Sock) -> Decision {
    let queued = owner::is_on()
        && sock.by_owner == Wait as u8
        && sock.slot == 0
        && sock.overlooked == 0
        && sock.role == ROLE_SERVER
        && owner::takes(&sock.owners[0]);
    if queued || sock.by_owner == Show as u8 {
        Show
    } else {
        Wait
    }
}

#[inline(always)]
fn by_owner(sock: &mut Sock, decision: Decision) -> Decision {
    sock.by_owner = decision as u8;
    decision
}

#[inline(always)]
fn by_outcome(sock: &mut Sock, decision: Decision) -> Decision {
    // Another CPU may have decided meanwhile: waiting is never written.
    if outcome::is_on() && decision != Wait {
        sock.by_outcome = decision as u8;
    }
    decision
}

#[inline(always)]
fn at_accept(sock: &mut Sock, now_ns: u64) -> Decision {
    if !role::takes(ROLE_SERVER) || (owner::is_on() && !owner::takes(&sock.owners[1])) {
        return by_owner(sock, Drop);
    }
    by_owner(sock, Show);
    let decision = outcome::at_accept(sock, now_ns);
    by_outcome(sock, decision)
}

#[inline(always)]
fn found(sock: &mut Sock) -> Decision {
    let takes = tuple::takes(&sock.tuple);
    if !takes && sock.role != ROLE_LISTENER {
        return Drop;
    }
    let shown = takes && !owner::is_on() && role::takes(sock.role);
    by_owner(sock, if shown { Show } else { Wait })
}

#[inline(always)]
fn listed(sock: &mut Sock) -> Decision {
    let listens = sock.state() == tcp::LISTEN;
    let takes = tuple::takes(&sock.tuple) && role::takes(sock.apparent_role());
    if !owner::is_on() {
        // Its role is known only now, as far as it is.
        if sock.guess != 0 {
            by_owner(sock, if takes { Show } else { Wait });
        }
        return Wait;
    }
    if listens && sock.wanted_holder == 0 {
        return Drop;
    }
    if sock.sources[0] != SOURCE_SNAPSHOT {
        return Wait;
    }
    if owner::takes(&sock.owners[0]) {
        return by_owner(sock, if takes { Show } else { Wait });
    }
    if listens { Wait } else { Drop }
}
