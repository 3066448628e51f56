//! When to look at time-wait sockets, where nothing else tells of them.

use std::time::{Duration, Instant};

use aya::Ebpf;

use super::{counts::Counts, ring::Ring};

const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(160);

/// Soon after something has changed, and ever more seldom while nothing does.
#[derive(Debug)]
pub(super) struct Looks {
    turn: Duration,
    next: Instant,
    /// So many were on the kernel side's list after the last look
    watched: u64,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            turn: OFTEN,
            next: Instant::now(),
            watched: 0,
        }
    }

    /// Whether any have come onto the list since.
    pub(super) fn has_more(&self, counts: &Counts) -> bool {
        counts.watched() > self.watched
    }

    /// Looks at all on the list if it is time to. Returns how long to wait until the next look; none if
    /// the list is empty.
    pub(super) fn turn(&mut self, ebpf: &Ebpf, counts: &Counts) -> Option<Duration> {
        let watched = counts.watched();
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
            Ring::look(ebpf, watched);
            let left = counts.watched();
            self.turn = if left < watched {
                OFTEN
            } else {
                (self.turn * 2).min(SELDOM)
            };
            self.watched = left;
            self.next = now + self.turn;
        }
        Some(self.next.saturating_duration_since(now))
    }
}
