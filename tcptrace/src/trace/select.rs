//! Which events are reported.

use tcptrace_common::config::{EMIT_ACCEPT, EMIT_CLOSE, EMIT_TRANSITION};

use crate::{
    event::Event,
    filter::{Outcome, States},
    settings::{Records, Settings},
};

/// What the agent chooses by; the kernel side has chosen before.
#[derive(Debug)]
pub(super) struct Selection {
    records: Records,
    states: States,
    failed: bool,
}

/// What becomes of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    /// It is reported
    pub(super) is_shown: bool,
    /// It is the first of its connection
    pub(super) begins: bool,
}

impl Selection {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            records: settings.records,
            states: settings.filters.states.clone(),
            failed: settings.outcome.failed,
        }
    }

    /// Whether any event of a record may be reported.
    pub(super) fn takes(&self, record: &[u8]) -> bool {
        !self.failed || Outcome::may_have_failed(record)
    }

    /// What becomes of an event.
    pub(super) fn choose(&self, event: &Event) -> Choice {
        let shows = |kind| self.records.shows(kind);
        let is_first = event.connection().is_first();
        let (is_kind_shown, begins) = match event {
            Event::Transition(_) => (shows(EMIT_TRANSITION), is_first),
            Event::Accept(_) => (shows(EMIT_ACCEPT), is_first),
            Event::Close(close) => {
                // Without transitions, the first record of a connection is its close, unless the snapshot had it.
                let was_in_snapshot = self.records.sockets && close.connection().is_partial();
                let is_unheard = !shows(EMIT_TRANSITION) && !was_in_snapshot;
                // A deduced end has no transition that could be the first.
                return Choice {
                    is_shown: shows(EMIT_CLOSE) && self.states.selects(event),
                    begins: is_unheard || (close.is_deduced() && is_first),
                };
            }
            // The first that is heard of it, where transitions are not shown.
            Event::Open(_) => (true, true),
            _ => (true, is_first),
        };
        Choice {
            is_shown: is_kind_shown && self.states.selects(event),
            begins: is_kind_shown && begins,
        }
    }
}
