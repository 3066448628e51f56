//! Patterns of names, and the places of cgroups: what it takes loops to find out.

use tcptrace_common::config::{
    AUTOMATON_COMM, AUTOMATON_CONTAINER, AUTOMATON_EXE, LISTED_REST, WANTED_CGROUP,
};

use super::owner::listed;
use crate::{
    constants::{config, off},
    kernel::{self, Object as _, Probed},
    maps::AUTOMATA,
    process::{self, EXE, PATH_MAX, Room, opaque},
};

/// Levels of cgroups that are looked at, from a process's own up.
const LEVELS: u32 = 16;
/// Longest name of a cgroup that may name a container.
const CGROUP_NAME: usize = 160;

/// The state after one byte.
#[inline(always)]
fn step(table: *const u8, state: u8, byte: u8) -> u8 {
    let at = kernel::number(u64::from(state) << 8 | u64::from(byte)) & 0xffff;
    // SAFETY: a table has 65,536 bytes.
    unsafe { *table.wrapping_add(at as usize) }
}

#[inline(always)]
fn table(index: u32) -> Option<*const u8> {
    AUTOMATA.get_ptr(index).map(<*const [u8; 65536]>::cast)
}

/// Whether the name of a process is wanted.
#[inline(always)]
pub(crate) fn comm_matches(comm: &[u8; 16]) -> bool {
    let Some(table) = table(AUTOMATON_COMM) else {
        return false;
    };
    let mut state = config!(comm_start);
    for byte in *comm {
        if byte == 0 {
            break;
        }
        state = step(table, state, byte);
    }
    u16::from(state) >= config!(comm_accepts)
}

/// Whether the executable of a process is wanted.
#[inline(never)]
pub(crate) fn exe_matches(leader: u64, place: u32) -> bool {
    let Some(table) = table(AUTOMATON_EXE) else {
        return false;
    };
    let Some(room) = Room::of(place) else {
        return false;
    };
    let path = room.exe(leader);
    if !path.whole {
        return false;
    }
    let mut state = config!(exe_start);
    let mut at = path.at;
    for _ in 0..PATH_MAX {
        at = opaque(at);
        if at >= PATH_MAX {
            break;
        }
        state = step(table, state, room.byte(EXE, at));
        at += 1;
    }
    u16::from(state) >= config!(exe_accepts)
}

/// Whether a cgroup of the process is asked for, or one that it is in: the nearest that is listed decides.
#[inline(never)]
pub(crate) fn cgroup_matches(leader: u64) -> bool {
    let [unified, other] = process::cgroups(Probed(leader));
    match nearest_listed(unified) {
        LISTED_NOT if other != 0 => nearest_listed(other) == LISTED,
        listed => listed == LISTED || (listed == LISTED_NOT && config!(by_cgroup) == LISTED_REST),
    }
}

const LISTED_NOT: u32 = 0;
const LISTED: u32 = 1;
const EXCLUDED: u32 = 2;

#[inline(never)]
fn nearest_listed(node: u64) -> u32 {
    let mut node = Probed(node);
    for _ in 0..LEVELS {
        if node.0 == 0 {
            break;
        }
        let id: u64 = node.read(off!(kn_id));
        match listed(WANTED_CGROUP, id) {
            Some(true) => return LISTED,
            Some(false) => return EXCLUDED,
            None => {}
        }
        node = Probed(node.read(off!(kn_parent)));
    }
    LISTED_NOT
}

/// Whether the process is in a container that was asked for.
#[inline(never)]
pub(crate) fn container_matches(leader: u64) -> bool {
    let [unified, other] = process::cgroups(Probed(leader));
    any_names_container(unified) || (other != 0 && any_names_container(other))
}

#[inline(never)]
fn any_names_container(node: u64) -> bool {
    let mut node = Probed(node);
    for _ in 0..LEVELS {
        if node.0 == 0 {
            break;
        }
        if names_container(node.read(off!(kn_name))) {
            return true;
        }
        node = Probed(node.read(off!(kn_parent)));
    }
    false
}

#[inline(never)]
fn names_container(name: u64) -> bool {
    let Some(table) = table(AUTOMATON_CONTAINER) else {
        return false;
    };
    let mut state = config!(container_start);
    // Sixteen bytes at a time: a stack has 512 for all functions together.
    for part in 0..CGROUP_NAME as u32 / 16 {
        let bytes: [u8; 16] = Probed(name).read(part * 16);
        for byte in bytes {
            if byte == 0 {
                return u16::from(state) >= config!(container_accepts);
            }
            state = step(table, state, byte);
        }
    }
    false
}
