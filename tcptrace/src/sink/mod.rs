//! Records to text. Pure: a sink appends bytes to a buffer and knows no file.

pub mod json;
pub mod table;
pub mod text;
pub mod time;

use std::collections::BTreeMap;

use crate::event::Event;

/// What a trace begins with.
#[derive(Debug)]
pub struct Start {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Kernel release
    pub kernel: String,
    /// Fact to the mechanism that gives it
    pub hooks: BTreeMap<&'static str, String>,
    /// The filters in force, as typed
    pub filters: BTreeMap<&'static str, String>,
}

/// Records that did not reach the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Why: `ring_full`, `map_full`, `sink_full`, `recursion`
    pub cause: &'static str,
    /// State changes lost; where none were asked for, records
    pub count: u64,
    /// Accept records lost with them
    pub accepts: u64,
    /// Closing totals lost with them
    pub closes: u64,
}

/// What a trace ends with.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// State changes shown
    pub transitions: u64,
    /// Connections seen
    pub connections: u64,
    /// Sum of all `Lost::count`
    pub lost: u64,
    /// How long it was, µs
    pub duration_us: u64,
}

/// A way to print records.
pub trait Sink {
    /// What comes before the first record.
    fn start(&mut self, start: &Start, out: &mut Vec<u8>);
    /// One record; returns the lines it made.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64;
    /// A loss.
    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>);
    /// What comes after the last record.
    fn end(&mut self, end: &End, out: &mut Vec<u8>);
    /// The difference between the wall clock and `CLOCK_MONOTONIC`, ns; told before each batch.
    fn set_clock(&mut self, wall_minus_mono_ns: i64);
}

/// Which lines a `Close` event becomes.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Its last transition
    pub transition: bool,
    /// Its totals
    pub close: bool,
}
