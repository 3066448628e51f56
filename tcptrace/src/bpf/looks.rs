//! When to look at time-wait sockets, where nothing else tells of them.

use std::time::{Duration, Instant};

use aya::Ebpf;

use super::{counts::Open, ring::Ring};

const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(160);

/// Soon after something has changed, and ever more seldom while nothing does.
#[derive(Debug)]
pub(super) struct Looks {
    turn: Duration,
    next: Instant,
    /// So many were on the kernel side's list after the last look
    watched: u64,
    /// Of so many CPUs the last stop has to be looked at
    cpus: u32,
    /// So many timers of pairs had been stopped before the last look at those
    stopped: u64,
    /// Not all of them were over
    uncertain: bool,
}

impl Looks {
    pub(super) fn new(cpus: u32) -> Self {
        Self {
            turn: OFTEN,
            next: Instant::now(),
            watched: 0,
            cpus,
            stopped: 0,
            uncertain: false,
        }
    }

    /// Whether any have come into question since.
    pub(super) fn has_more(&self, open: Open) -> bool {
        open.watched > self.watched || open.stopped != self.stopped
    }

    /// Looks at all that are in question, if it is time to. Returns how long to wait until the next look;
    /// none if none are.
    pub(super) fn turn(&mut self, ebpf: &Ebpf, open: Open) -> Option<Duration> {
        if self.uncertain || open.stopped != self.stopped {
            self.stopped = open.stopped;
            self.look_at_stops(ebpf);
        }
        let stops = self.uncertain.then_some(OFTEN);
        [stops, self.watch(ebpf, open.watched)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Looks at the last stop of each CPU.
    pub(super) fn look_at_stops(&mut self, ebpf: &Ebpf) {
        self.uncertain = Ring::look_at_stops(ebpf, self.cpus) > 0;
    }

    /// Looks at those on the list, `watched` of them, if it is time to.
    fn watch(&mut self, ebpf: &Ebpf, watched: u64) -> Option<Duration> {
        let now = Instant::now();
        if watched > self.watched {
            self.turn = OFTEN;
            self.next = self.next.min(now + OFTEN);
        }
        self.watched = watched;
        if watched == 0 {
            return None;
        }
        if now >= self.next {
            let gone = Ring::look(ebpf, watched).gone;
            self.turn = if gone > 0 {
                OFTEN
            } else {
                (self.turn * 2).min(SELDOM)
            };
            self.watched = watched.saturating_sub(gone);
            self.next = now + self.turn;
        }
        Some(self.next.saturating_duration_since(now))
    }
}
