//! The end of a trace of a command, or of processes: with the last process that came of them, and what its
//! connections do then.

use std::time::{Duration, Instant};

use crate::bpf::Tracer;

/// How long connections may take to end once the command has: some FINs are never answered, and somebody waits
/// for the exit status.
const OF_COMMAND: Duration = Duration::from_secs(2);
/// The same of the processes of `-p`: as long as the kernel waits for a FIN (`tcp_fin_timeout`).
const OF_OTHERS: Duration = Duration::from_mins(1);

/// Whether a trace of processes is over.
#[derive(Debug)]
pub(super) struct Drain {
    patience: Duration,
    /// Since when no process is left
    alone_since: Option<Instant>,
}

impl Drain {
    /// How often to ask.
    pub(super) const TURN: Duration = Duration::from_millis(20);

    /// `is_of_command`: it is a command's trace.
    pub(super) const fn new(is_of_command: bool) -> Self {
        Self {
            patience: if is_of_command { OF_COMMAND } else { OF_OTHERS },
            alone_since: None,
        }
    }

    /// Whether no process is left that is followed, and their connections have ended.
    pub(super) fn is_done(&mut self, tracer: &Tracer) -> bool {
        if self.alone_since.is_none() {
            if tracer.follows_any() {
                return false;
            }
            self.alone_since = Some(Instant::now());
        }
        let since = self.alone_since.map(|since| since.elapsed());
        !tracer.has_open_sockets() || since >= Some(self.patience)
    }
}
