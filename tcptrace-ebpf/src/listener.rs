//! What is kept of a listener beside its record.

use tcptrace_common::layout::ABSENT;

use crate::{
    constants::off,
    kernel::{Object as _, Probed},
    maps::BACKLOGS,
    sock::Backlog,
};

/// Begins to keep it. `now_ns`: when it began to listen; 0 if that went unseen. When the map is
/// full, this listener's troubles are not told.
#[inline(always)]
pub(crate) fn begin(key: u64, now_ns: u64) {
    if off!(icsk_qlen) == ABSENT {
        return;
    }
    let backlog = Backlog {
        accept_ns: now_ns,
        unanswered: 0,
        unanswered_told: 0,
        drops_told: Probed(key).read(off!(sk_drops)),
        reserved: 0,
    };
    let _full = BACKLOGS.insert(key, &backlog, 0);
}

/// Ends it.
#[inline(always)]
pub(crate) fn end(key: u64) {
    let _gone = BACKLOGS.remove(key);
}
