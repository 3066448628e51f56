//! Has the kernel side report what still waits when the limit of `--slower-than` has passed.

use std::time::{Duration, Instant};

use aya::Ebpf;

use super::ring::run;

/// A connection is reported so long after its limit has passed at the latest.
const TURN: Duration = Duration::from_millis(25);

/// Room for connections that wait: a second of 100,000 a second, and the limits that people ask for.
const WAITING_MAX: u32 = 1 << 18;

/// Runs in one turn: the loop has other things to do.
const RUNS_PER_TURN: u32 = 256;

/// How many connections may wait at a time.
pub(super) const fn room(is_wanted: bool) -> u32 {
    if is_wanted { WAITING_MAX } else { 1 }
}

/// When to look for those whose limit has passed.
#[derive(Debug)]
pub(super) struct Slow {
    next: Instant,
}

impl Slow {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now(),
        }
    }

    /// Poll, if it is time to. Returns how long it is until the next time.
    pub(super) fn turn(&mut self, ebpf: &Ebpf) -> Duration {
        let now = Instant::now();
        if now >= self.next {
            let more = (0..RUNS_PER_TURN).all(|_| run(ebpf, "slow", &[]) == Some(1));
            self.next = if more { now } else { now + TURN };
        }
        self.next.saturating_duration_since(now)
    }
}
