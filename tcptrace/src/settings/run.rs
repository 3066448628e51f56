//! How long a trace runs, and with how much memory.

use std::{path::PathBuf, time::Duration};

use crate::{
    cli::RunArgs,
    error::Error,
    quantity::{parse_duration, parse_size},
};

/// How long records gather before they are read.
const TURN: Duration = Duration::from_millis(10);

/// The same where only numbers are made of them: nobody sees a record by itself, and a turn costs as much as
/// ten records.
const TURN_OF_NUMBERS: Duration = Duration::from_millis(100);

const PAGE_BYTES: u64 = 4096;
const RING_MAX_BYTES: u64 = 1 << 30;

/// How long to run, and with how much memory.
#[derive(Clone, Debug)]
pub struct Run {
    /// When to stop
    pub duration: Option<Duration>,
    /// After how many records to stop
    pub count: Option<u64>,
    /// How long records gather before they are read
    pub turn: Duration,
    /// Ring size: a power of two of whole pages
    pub ring_bytes: u32,
    /// Records of live sockets; none: by memory
    pub max_sockets: Option<u32>,
    /// File for the bytes of the ring
    pub record_ring: Option<PathBuf>,
    /// Whether rights that only the start needs are kept
    pub keep_privileges: bool,
    /// Whether a loss is an error
    pub fail_on_loss: bool,
}

impl Run {
    /// Checks what was typed. `is_counting`: only numbers are made of the records.
    pub fn parse(args: RunArgs, is_counting: bool) -> Result<Self, Error> {
        Ok(Self {
            turn: if is_counting { TURN_OF_NUMBERS } else { TURN },
            duration: args
                .duration
                .as_deref()
                .map(|text| parse_duration("-d", text))
                .transpose()?,
            count: args.count,
            ring_bytes: parse_ring_size(&args.buffer)?,
            max_sockets: args.max_sockets,
            record_ring: args.record_ring,
            keep_privileges: args.keep_privileges,
            fail_on_loss: args.fail_on_loss,
        })
    }
}

/// Rounds up to a power of two of whole pages.
fn parse_ring_size(text: &str) -> Result<u32, Error> {
    let bytes = parse_size("--buffer", text, RING_MAX_BYTES)?;
    let bytes = bytes.max(PAGE_BYTES).next_power_of_two();
    u32::try_from(bytes)
        .map_err(|_too_large| Error::usage(format!("--buffer {text}: out of range")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_sizes_become_a_power_of_two_of_pages() {
        for (text, bytes) in [("1", 4096), ("4K", 4096), ("5k", 8192), ("8M", 8 << 20)] {
            assert_eq!(parse_ring_size(text).unwrap(), bytes, "{text}");
        }
    }
}
