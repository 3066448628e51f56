//! What is kept of a listener beside its record.

use tcptrace_common::layout::ABSENT;

use crate::{
    constants::off,
    kernel::{Object as _, Probed},
    maps::BACKLOGS,
    sock::NO_BACKLOG,
};

/// Begins to keep it. `now_ns`: when it began to listen; 0 if that went unseen. When the map is
/// full, this listener's troubles are not told.
#[inline(always)]
pub(crate) fn begin(key: u64, now_ns: u64) {
    if off!(icsk_qlen) == ABSENT {
        return;
    }
    if BACKLOGS.insert(key, &NO_BACKLOG, 0).is_err() {
        return;
    }
    if let Some(pointer) = BACKLOGS.get_ptr_mut(key) {
        // SAFETY: a live record, just made.
        let backlog = unsafe { &mut *pointer };
        backlog.accept_ns = now_ns;
        backlog.drops_reported = Probed(key).read(off!(sk_drops));
    }
}

/// Ends it.
#[inline(always)]
pub(crate) fn end(key: u64) {
    let _gone = BACKLOGS.remove(key);
}
