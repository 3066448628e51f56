//! The user's filter, as far as the kernel can decide it.

use tcptrace_common::config::{
    FAMILY_V4, FAMILY_V6, PORT_WORDS, PORTS_ANY, PORTS_LOCAL, PORTS_NONE, PORTS_REMOTE,
};

use crate::{
    constants::config,
    emit,
    maps::{ACTIVE, ANY_LISTENER, ENDING, OVER, PIDS, PORTS, SELECTION},
    tuple::Tuple,
};

#[inline(always)]
fn listed(row: u32, port: u16) -> bool {
    let port = u32::from(port);
    match PORTS.get(row * PORT_WORDS + port / 64) {
        Some(word) => word >> (port % 64) & 1 != 0,
        None => false,
    }
}

/// Whether a connection with these ends is wanted.
#[inline(always)]
pub(crate) fn takes(tuple: &Tuple) -> bool {
    let family = if tuple.family == 4 {
        FAMILY_V4
    } else {
        FAMILY_V6
    };
    if config!(families) & family == 0 {
        return false;
    }
    if config!(by_lport) != 0 && !listed(PORTS_LOCAL, tuple.lport) {
        return false;
    }
    if config!(by_rport) != 0 && (tuple.rport == 0 || !listed(PORTS_REMOTE, tuple.rport)) {
        return false;
    }
    if config!(by_port) != 0 {
        let at_either_end =
            |row| listed(row, tuple.lport) || (tuple.rport != 0 && listed(row, tuple.rport));
        if !at_either_end(PORTS_ANY) || at_either_end(PORTS_NONE) {
            return false;
        }
    }
    true
}

/// Whether connections in this role are wanted.
#[inline(always)]
pub(crate) fn takes_role(role: u8) -> bool {
    config!(roles) >> (role & 7) & 1 != 0
}

/// Whether a connection must do something to be shown: take long, or fail.
#[inline(always)]
pub(crate) fn judges() -> bool {
    config!(slower_ns) != 0 || config!(failed) != 0
}

#[inline(always)]
fn is_set(index: u32) -> bool {
    SELECTION.get(index).is_some_and(|set| *set != 0)
}

/// Sets a flag; whether it was not set before.
#[inline(always)]
fn set(index: u32) -> bool {
    let Some(flag) = SELECTION.get_ptr_mut(index) else {
        return false;
    };
    // SAFETY: a live, aligned map value; whoever writes it writes the same.
    let flag = unsafe { &mut *flag };
    let before = *flag;
    *flag = 1;
    before == 0
}

/// Whether no connection has been seen yet that any process asked for may own.
#[inline(always)]
pub(crate) fn is_idle() -> bool {
    config!(by_pid) != 0 && !is_set(ACTIVE)
}

/// Whether the trace ends.
#[inline(always)]
pub(crate) fn is_ending() -> bool {
    is_set(ENDING)
}

/// Whether nobody is told any more that sockets end.
#[inline(always)]
pub(crate) fn is_over() -> bool {
    is_set(OVER)
}

/// A connection has been seen that a process asked for may own.
#[inline(always)]
pub(crate) fn activate() {
    if config!(by_pid) != 0 && set(ACTIVE) {
        emit::nudge();
    }
}

/// Whether a connection from a listener that nobody asked for may still be accepted by a process
/// that somebody did.
#[inline(always)]
pub(crate) fn takes_any_listener() -> bool {
    is_set(ANY_LISTENER)
}

/// A process asked for has accepted from a listener that it was not known to have.
#[inline(always)]
pub(crate) fn take_any_listener() {
    set(ANY_LISTENER);
}

/// Whether this process's connections are wanted.
#[inline(always)]
pub(crate) fn takes_process(tgid: u32) -> bool {
    if config!(only_pid) != 0 {
        return tgid == config!(only_pid);
    }
    // SAFETY: the value is not read; the agent fills the map before attach and leaves it alone.
    tgid != 0 && unsafe { PIDS.get(tgid) }.is_some()
}
