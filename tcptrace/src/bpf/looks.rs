//! When to look at time-wait sockets, where nothing else tells of them.

use std::time::{Duration, Instant};

use aya::Ebpf;

use super::ring::Ring;

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

    /// Whether any have come onto the list since, with so many there now.
    pub(super) fn has_more(&self, watched: u64) -> bool {
        watched > self.watched
    }

    /// Looks at all on the list, `watched` of them, if it is time to. Returns how long to wait until the
    /// next look; none if the list is empty.
    pub(super) fn turn(&mut self, ebpf: &Ebpf, watched: u64) -> Option<Duration> {
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
