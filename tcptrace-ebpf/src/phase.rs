//! What the trace is doing: marks in `SELECTION` that the agent or a program sets, and nobody clears.

use tcptrace_common::map_index::{ACTIVE, ANY_LISTENER, ENDING, KEEPER_GONE, OVER};

use crate::{emit, filter, maps::SELECTION};

#[inline(always)]
fn is_set(index: u32) -> bool {
    SELECTION.get(index).is_some_and(|set| *set != 0)
}

/// Sets a mark; whether it was not set before.
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
    filter::owner::is_on() && !is_set(ACTIVE)
}

/// A connection has been seen that a process asked for may own.
#[inline(always)]
pub(crate) fn activate() {
    if filter::owner::is_on() && set(ACTIVE) {
        emit::wake_agent();
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

/// Whether the trace ends: what begins from now on is not followed.
#[inline(always)]
pub(crate) fn is_ending() -> bool {
    is_set(ENDING)
}

/// Whether nobody is told any more that sockets end.
#[inline(always)]
pub(crate) fn is_over() -> bool {
    is_set(OVER)
}

/// Whether a process that had a listener has ended.
#[inline(always)]
pub(crate) fn is_a_keeper_gone() -> bool {
    is_set(KEEPER_GONE)
}

/// A process that had a listener has ended.
#[inline(always)]
pub(crate) fn keeper_is_gone() {
    set(KEEPER_GONE);
}
