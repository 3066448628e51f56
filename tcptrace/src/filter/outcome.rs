//! `--failed`, `--slower-than`: by what became of a connection. Only a trace sees that.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;

use super::KernelFilters;
use crate::{error::Error, event::Event, quantity::parse_duration};

/// `--failed` and `--slower-than` as typed.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Filter")]
pub struct OutcomeArgs {
    /// Only connections that failed: refused, timed out, unreachable, reset, given up after nobody had
    /// answered for a second; not those that the program itself canceled before
    #[arg(long)]
    pub failed: bool,
    /// By time, as typed
    #[arg(
        long,
        help = "Only connections that took this long to connect, or to be accepted: 100ms; a bare number is seconds",
        value_name = "DUR",
        allow_hyphen_values = true
    )]
    pub slower_than: Option<String>,
}

/// What must have become of a connection.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// It failed
    pub failed: bool,
    /// It took this long to connect or to be accepted
    pub slower: Option<Duration>,
    /// The same as typed
    typed_slower: Option<String>,
}

impl Outcome {
    /// Checks what was typed.
    pub fn parse(args: OutcomeArgs) -> Result<Self, Error> {
        let slower = args
            .slower_than
            .as_deref()
            .map(|text| parse_duration("--slower-than", text))
            .transpose()?;
        Ok(Self {
            failed: args.failed,
            slower,
            typed_slower: args.slower_than,
        })
    }

    /// Appends what was typed: `filters` of the `start` record.
    pub fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if self.failed {
            typed.insert("failed", "true".to_owned());
        }
        if let Some(slower) = &self.typed_slower {
            typed.insert("slower_than", slower.clone());
        }
    }

    /// Configures the kernel side: with `--failed` it defers all records of a connection until its end, and
    /// [`Outcome::may_have_failed`] decides; `--slower-than` is decided there.
    pub fn configure(&self, kernel: &mut KernelFilters) {
        kernel.config.failed = u8::from(self.failed);
        kernel.config.slower_ns = self.slower.map_or(0, |slower| {
            u64::try_from(slower.as_nanos()).unwrap_or(u64::MAX)
        });
    }

    /// Whether a record is the end of a connection that failed, tells of trouble that has no end yet, or is
    /// not to be understood.
    pub fn may_have_failed(record: &[u8]) -> bool {
        let mut failed = false;
        let understood = Event::decode(record, |event| {
            failed |= match event {
                Event::Close(close) => close.reason().is_failure(),
                Event::Listener(_) | Event::Slow(_) => true,
                _ => false,
            };
            true
        });
        failed || understood.is_err()
    }
}
