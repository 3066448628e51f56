//! Filters that ask who owns the connection: `-p`, `-f`, `-c`, `-u`; and `--exe`, `--cgroup` and `--container`,
//! whose answers `process` has worked out when the process was first met.

use tcptrace_common::{
    config::{LISTED_REST, PID_FOLLOWED, WANTED_UID},
    record::Owner,
};

use super::pattern;
use crate::{
    constants::config,
    maps::{PIDS, WANTED},
    process,
};

/// Whether any filter asks for the owner: then nothing is sent of a connection before the owner is known.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    config!(by_pid) != 0
}

/// Whether this owner's connections are wanted.
#[inline(always)]
pub(crate) fn takes(owner: &Owner) -> bool {
    if owner.tgid == 0 {
        return false;
    }
    // `-p` of one process alone, which most ask for.
    if config!(only_pid) != 0 {
        return owner.tgid == config!(only_pid) && takes_name(owner) && takes_user(owner);
    }
    let mut followed = false;
    if config!(in_pids) != 0 || config!(follow) != 0 {
        // SAFETY: the value is copied at once.
        match unsafe { PIDS.get(owner.tgid) } {
            Some(why) => followed = *why == PID_FOLLOWED,
            None if config!(in_pids) != 0 => return false,
            None => {}
        }
    }
    if !followed && !takes_name(owner) {
        return false;
    }
    takes_user(owner)
}

/// By what is executed.
#[inline(always)]
fn takes_name(owner: &Owner) -> bool {
    (config!(by_comm) == 0 || pattern::comm_matches(&owner.comm))
        && (config!(by_exe) == 0 || process::is_taken(owner.tgid, process::EXE_TAKEN))
}

/// By what stays the same for most children.
#[inline(always)]
fn takes_user(owner: &Owner) -> bool {
    if config!(by_uid) != 0 && !takes_listed(WANTED_UID, owner.uid, config!(by_uid)) {
        return false;
    }
    (config!(by_cgroup) == 0 || process::is_taken(owner.tgid, process::CGROUP_TAKEN))
        && (config!(by_container) == 0 || process::is_taken(owner.tgid, process::CONTAINER_TAKEN))
}

/// What a list says of a number; none if it is not on it.
#[inline(always)]
pub(crate) fn listed(list: u64, number: u64) -> Option<bool> {
    // SAFETY: the value is copied at once; the agent fills the map before attach and leaves it alone.
    unsafe { WANTED.get(&[list, number]) }.map(|wanted| *wanted != 0)
}

/// Whether a list, of which only exclusions leave the rest in, takes a number.
#[inline(always)]
pub(crate) fn takes_listed(list: u64, number: u32, mode: u8) -> bool {
    listed(list, number.into()).unwrap_or(mode == LISTED_REST)
}
