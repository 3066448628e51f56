//! Filters that ask who owns the connection: `-p`. Another such filter is a function like [`takes_process`],
//! and a line in [`is_on`] and in [`takes`].

use tcptrace_common::record::Owner;

use crate::{constants::config, maps::PIDS};

/// Whether any filter asks for the owner: then nothing is sent of a connection before the owner is known.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config!(by_pid) != 0
}

/// Whether this owner's connections are wanted.
#[inline(always)]
pub(crate) fn takes(owner: &Owner) -> bool {
    takes_process(owner.tgid)
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
