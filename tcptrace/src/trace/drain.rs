//! The end of a trace of a command: with the last process that came of it, and what its connections do then.

use std::time::{Duration, Instant};

use crate::bpf::Tracer;

/// How long connections may take to end once their processes have: some FINs are never answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether a command's trace is over.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// Since when no process is left
    alone_since: Option<Instant>,
}

impl Drain {
    /// How often to ask.
    pub(super) const TURN: Duration = Duration::from_millis(20);

    /// Whether no process is left that is followed, and their connections have ended.
    pub(super) fn is_done(&mut self, tracer: &Tracer) -> bool {
        if self.alone_since.is_none() {
            if tracer.follows_any() {
                return false;
            }
            self.alone_since = Some(Instant::now());
        }
        let since = self.alone_since.map(|since| since.elapsed());
        !tracer.has_records() || since >= Some(PATIENCE)
    }
}
