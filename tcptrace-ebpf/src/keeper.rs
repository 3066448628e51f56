//! Processes that have listeners. One that has ended owns nothing, and its id may be another's: whoever holds
//! the listener now shows when it accepts.

use aya_ebpf::bindings::BPF_NOEXIST;
use tcptrace_common::record::{Owner, SOURCE_LISTEN, SOURCE_SNAPSHOT, SOURCE_UNKNOWN};

use crate::{kernel, maps::KEEPERS, phase, sock::Sock};

/// This process has a listener from now on. What is known of an earlier one with its id stays: it ended before.
#[inline(always)]
pub(crate) fn begin(owner: &Owner) {
    if owner.tgid != 0 {
        let _known = KEEPERS.insert(owner.tgid, 0, u64::from(BPF_NOEXIST));
    }
}

/// The process with this id ends.
#[inline(always)]
pub(crate) fn end(tgid: u32) {
    // SAFETY: nothing is kept of the value.
    if unsafe { KEEPERS.get(tgid) }.is_some() {
        let _full = KEEPERS.insert(tgid, kernel::now_ns(), 0);
        phase::keeper_is_gone();
    }
}

/// Takes the owner from a listener whose process has ended since it was made, or found.
#[inline(always)]
pub(crate) fn forget_gone(listener: &mut Sock) {
    if phase::is_a_keeper_gone() {
        forget(listener);
    }
}

/// A function of its own: processes with listeners seldom end before these.
#[inline(never)]
fn forget(listener: &mut Sock) {
    let source = listener.sources[0];
    if source != SOURCE_LISTEN && source != SOURCE_SNAPSHOT {
        return;
    }
    // SAFETY: the value is copied at once.
    let ended_ns = unsafe { KEEPERS.get(listener.owners[0].tgid) }.copied();
    if ended_ns.is_some_and(|ended_ns| ended_ns > listener.path[0].mono_ns()) {
        listener.sources[0] = SOURCE_UNKNOWN;
        listener.owners[0].tgid = 0;
        listener.processes[0] = 0;
    }
}
