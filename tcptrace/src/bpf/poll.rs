//! When to look at time-wait sockets, where nothing else tells of them.

use std::time::{Duration, Instant};

use aya::Ebpf;

use super::{counts::Open, ring::Ring};

const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(160);

/// Soon after something has changed, and ever more seldom while nothing does.
#[derive(Debug)]
pub(super) struct Poll {
    turn: Duration,
    next: Instant,
    /// So many were on the kernel side's list after the last look
    watched: u64,
    stops: Stops,
}

impl Poll {
    /// `cpus`: all have lower numbers.
    pub(super) fn new(cpus: u32) -> Self {
        Self {
            turn: OFTEN,
            next: Instant::now(),
            watched: 0,
            stops: Stops {
                cpus,
                seen: 0,
                uncertain: false,
                looked: Instant::now(),
                waits: false,
            },
        }
    }

    /// Whether any have come into question since the last turn.
    pub(super) fn has_more(&self, open: Open) -> bool {
        open.watched > self.watched || open.stopped != self.stops.seen
    }

    /// Whether the next look at stopped timers is due soon, whatever happens until then.
    pub(super) fn is_due_soon(&self) -> bool {
        self.stops.waits
    }

    /// Poll at all that are in question, if it is time to. Returns how long to wait until the next look at the
    /// list; none if it is empty.
    pub(super) fn turn(&mut self, ebpf: &Ebpf, open: Open) -> Option<Duration> {
        self.stops.turn(ebpf, open.stopped);
        self.poll(ebpf, open.watched)
    }

    /// Poll at the last stop of each CPU.
    pub(super) fn resolve_stops(&mut self, ebpf: &Ebpf) {
        self.stops.look(ebpf);
    }

    /// Poll at those on the list, `watched` of them, if it is time to.
    fn poll(&mut self, ebpf: &Ebpf, watched: u64) -> Option<Duration> {
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

/// Timers that were stopped, for good or to be set anew. Each CPU finds out at its next one; of the last it has
/// to be asked for.
#[derive(Debug)]
struct Stops {
    /// All have lower numbers
    cpus: u32,
    /// So many had been stopped before the last look
    seen: u64,
    /// Not all of those were over
    uncertain: bool,
    looked: Instant,
    /// There is something to look at, and it is not time to yet
    waits: bool,
}

impl Stops {
    /// Poll, if that is in question and time to; `stopped`: so many there were until now.
    fn turn(&mut self, ebpf: &Ebpf, stopped: u64) {
        let in_question = |stops: &Self| stops.uncertain || stopped != stops.seen;
        if in_question(self) && self.looked.elapsed() >= OFTEN {
            self.seen = stopped;
            self.look(ebpf);
        }
        self.waits = in_question(self);
    }

    fn look(&mut self, ebpf: &Ebpf) {
        self.looked = Instant::now();
        self.uncertain = Ring::resolve_stops(ebpf, self.cpus) > 0;
    }
}
