//! What is counted: every record received from the kernel is reported, filtered, or counted here as lost
//! or malformed.

use tcptrace_common::config::{EMIT_CLOSE, EMIT_TRANSITION};

use super::consumer::Outputs;
use crate::{
    bpf::Losses,
    event::{Event, LossCause, Role},
    settings::Records,
    sink::{End, Lost},
};

/// The counters of a trace.
#[derive(Debug)]
pub(super) struct Accounting {
    kinds: Records,
    /// After how many records to stop
    limit: Option<u64>,
    /// Records reported
    pub(super) records: u64,
    /// Of `records`, those that are written
    pub(super) written: u64,
    transitions: u64,
    connections: u64,
    /// Of `connections`, those that listen
    listeners: u64,
    /// Connections still open at the end, if they are looked for
    open: Option<u64>,
    lost: u64,
    lost_beside: u64,
    anything_lost: bool,
    pub(super) malformed: u64,
    /// Losses that are reported
    reported: Losses,
}

/// How a trace went.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// The totals of the `end` record
    pub end: End,
    /// Whether the reader went away
    pub closed: bool,
    /// Whether anything was lost, accept records and ends included
    pub anything_lost: bool,
    /// Records that were lost and are not among those that `end` counts
    pub lost_beside: u64,
    /// Records that could not be understood
    pub malformed: u64,
}

impl Accounting {
    pub(super) fn new(kinds: Records, limit: Option<u64>) -> Self {
        Self {
            kinds,
            limit,
            records: 0,
            written: 0,
            transitions: 0,
            connections: 0,
            listeners: 0,
            open: kinds.open.then_some(0),
            lost: 0,
            lost_beside: 0,
            anything_lost: false,
            malformed: 0,
            reported: Losses::default(),
        }
    }

    /// Counts a connection that is heard of for the first time.
    pub(super) fn begins(&mut self, role: Role) {
        self.connections += 1;
        self.listeners += u64::from(role == Role::Listener);
    }

    /// Counts a connection that is still open at the end. Returns whether it is one of those that are listed.
    pub(super) fn is_open(&mut self) -> bool {
        let number = self.open.get_or_insert(0);
        *number += 1;
        self.kinds.open_max.is_none_or(|most| *number <= most)
    }

    /// Counts an event that is reported.
    pub(super) fn count(&mut self, event: &Event) {
        self.records += 1;
        self.transitions += u64::from(matches!(event, Event::Transition(_)));
    }

    /// Whether as many records are reported as the user wants.
    pub(super) fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.records >= limit)
    }

    /// Losses that are reported.
    pub(super) const fn reported(&self) -> &Losses {
        &self.reported
    }

    /// All losses, those that `end` does not count included.
    pub(super) const fn all_lost(&self) -> u64 {
        self.lost + self.lost_beside
    }

    /// Reports what has been lost since the last time.
    pub(super) fn report(&mut self, now: Losses, mono_ns: u64, outputs: &mut Outputs) {
        let before = std::mem::replace(&mut self.reported, now);
        // What was missed a moment ago and has been recorded since was reported, and that stands.
        self.reported.recursion = now.recursion.max(before.recursion);
        let shows_transitions = self.kinds.shows(EMIT_TRANSITION);
        for lost in losses_between(&before, &now, self.kinds, mono_ns) {
            if lost != Lost::new(lost.cause, mono_ns, 0) {
                self.lost(&lost, shows_transitions, outputs);
            }
        }
        let mut dropped = 0;
        outputs.each(|consumer| dropped += consumer.take_dropped());
        if dropped > 0 {
            let lost = Lost::new(LossCause::SinkFull, mono_ns, dropped);
            self.lost(&lost, shows_transitions, outputs);
        }
    }

    /// Reports how many steps stay unreported at the end: of sockets still without their port, or whose
    /// port can no longer be known.
    pub(super) fn report_deferred(&mut self, steps: u64, mono_ns: u64, outputs: &mut Outputs) {
        if steps > 0 {
            let lost = Lost::new(LossCause::MapFull, mono_ns, steps);
            self.lost(&lost, self.kinds.shows(EMIT_TRANSITION), outputs);
        }
    }

    fn lost(&mut self, lost: &Lost, shows_transitions: bool, outputs: &mut Outputs) {
        self.anything_lost = true;
        self.lost += lost.count;
        // Where no transitions are shown, these are what `count` counts.
        let beside = if shows_transitions {
            lost.accepts + lost.closes
        } else {
            0
        };
        self.lost_beside += beside + lost.time_waits + lost.others;
        outputs.each(|consumer| consumer.lost(lost));
    }

    /// The `end` record.
    pub(super) const fn end(&self, begin_ns: u64, end_ns: u64) -> End {
        End {
            mono_ns: end_ns,
            transitions: self.transitions,
            connections: self.connections,
            listeners: self.listeners,
            open: self.open,
            lost: self.lost,
            duration_us: (end_ns - begin_ns) / 1000,
        }
    }

    /// How it went. `closed`: the reader went away.
    pub(super) const fn totals(&self, end: End, closed: bool) -> Totals {
        Totals {
            end,
            closed,
            anything_lost: self.anything_lost,
            lost_beside: self.lost_beside,
            malformed: self.malformed,
        }
    }
}

/// What was lost from the ring, for want of room in a map, and because the kernel ran no program.
fn losses_between(before: &Losses, now: &Losses, kinds: Records, mono_ns: u64) -> [Lost; 4] {
    // A counter that cannot be read is 0.
    let since = u64::saturating_sub;
    let shows_transitions = kinds.shows(EMIT_TRANSITION);
    let accepts = since(now.ring_accepts, before.ring_accepts);
    // `--failed` needs them to choose by, whether they are shown or not.
    let closes = if kinds.shows(EMIT_CLOSE) {
        since(now.ring_closes, before.ring_closes)
    } else {
        0
    };
    let count = if shows_transitions {
        since(now.ring_transitions, before.ring_transitions)
    } else {
        accepts + closes
    };
    let ring = Lost {
        accepts,
        closes,
        time_waits: since(now.ring_time_waits, before.ring_time_waits),
        others: since(now.ring_details, before.ring_details),
        ..Lost::new(LossCause::RingFull, mono_ns, count)
    };
    let count = since(now.map_full, before.map_full);
    let map = Lost {
        time_waits: since(now.map_pairs, before.map_pairs),
        ..Lost::new(LossCause::MapFull, mono_ns, count)
    };
    let missed = since(now.recursion, before.recursion);
    let accepts = since(now.recursion_accepts, before.recursion_accepts);
    let count = if shows_transitions {
        missed
    } else {
        missed + accepts
    };
    let recursion = Lost {
        accepts,
        others: since(now.recursion_details, before.recursion_details),
        ..Lost::new(LossCause::Recursion, mono_ns, count)
    };
    let accepts = since(now.overlooked, before.overlooked);
    let count = if shows_transitions { 0 } else { accepts };
    let overlooked = Lost {
        accepts,
        ..Lost::new(LossCause::Overlooked, mono_ns, count)
    };
    [ring, map, recursion, overlooked]
}
