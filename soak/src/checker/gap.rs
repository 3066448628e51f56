//! What was evidently not reported, and whether a loss or the kernel explains it.

use crate::line::Line;
use crate::oracle::{Missed, What};

/// How long the timer of `TIME_WAIT` takes, with the grain of the timer wheel.
const WAIT_US: [u64; 2] = [60_000_000, 68_000_000];

/// The clock of ftrace is read before the tracer's, or after it.
const MISSED_APART_US: u64 = 50_000;

/// Something that was not reported, though it happened between these times.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    pub(super) from_us: u64,
    pub(super) to_us: u64,
    /// Local and remote, where known
    pub(super) ports: Option<[u16; 2]>,
    /// It is the end of `TIME_WAIT`
    pub(super) expires: bool,
    pub(super) what: String,
}

/// Local and remote, of whom a line is about.
pub(super) fn ports_of(text: &str) -> Option<[u16; 2]> {
    let line: Line<'_> = serde_json::from_str(text).ok()?;
    Some([line.lport?, line.rport.unwrap_or(0)])
}

impl Gap {
    /// Whether what was missed explains it.
    pub(super) fn is_one_of(&self, missed: &[Missed]) -> bool {
        let within = |[from_us, to_us]: [u64; 2], at_us: u64| {
            at_us.saturating_add(MISSED_APART_US) >= from_us
                && at_us <= to_us.saturating_add(MISSED_APART_US)
        };
        missed.iter().any(|missed| match missed.what {
            What::Transition(ports) => {
                self.ports == Some(ports) && within([self.from_us, self.to_us], missed.at_us)
            }
            What::Expiry => {
                let expected = WAIT_US.map(|wait_us| self.from_us.saturating_add(wait_us));
                self.expires && within(expected, missed.at_us)
            }
        })
    }

    pub(super) fn is_in(&self, losses: &[(u64, u64)]) -> bool {
        losses
            .iter()
            .rev()
            .any(|(from_us, to_us)| self.from_us <= *to_us && self.to_us >= *from_us)
    }
}
