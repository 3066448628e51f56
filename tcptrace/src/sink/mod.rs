//! Records to text. Pure: a sink appends bytes to a buffer and knows no file.

#[macro_use]
pub mod fields;

pub mod csv;
pub mod ecs;
pub mod json;
pub mod list;
pub mod listen;
pub(crate) mod pen;
mod remembered;
pub mod table;
pub mod text;
pub mod time;

use std::collections::{BTreeMap, HashMap};

use crate::{
    event::{Event, LossCause},
    identity::process::Processes,
};

/// What a trace begins with.
#[derive(Clone, Debug)]
pub struct Start {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Kernel release
    pub kernel: String,
    /// Fact to the mechanism that gives it
    pub hooks: BTreeMap<&'static str, String>,
    /// Names of the kernel's reasons for an RST
    pub reset_reasons: HashMap<u32, String>,
    /// The filters in force, as typed
    pub filters: BTreeMap<&'static str, String>,
    /// The processes that own connections, as they become known
    pub processes: Processes,
}

/// Records that did not reach the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Why
    pub cause: LossCause,
    /// State changes lost; where none were asked for, records
    pub count: u64,
    /// Accept records lost with them
    pub accepts: u64,
    /// Closing totals lost with them
    pub closes: u64,
    /// Ends of `TIME_WAIT` lost: of these the kernel reports no transition
    pub time_waits: u64,
    /// Records of other kinds lost
    pub others: u64,
}

impl Lost {
    /// So many state changes, and nothing with them.
    pub const fn new(cause: LossCause, mono_ns: u64, count: u64) -> Self {
        Self {
            mono_ns,
            cause,
            count,
            accepts: 0,
            closes: 0,
            time_waits: 0,
            others: 0,
        }
    }

    /// Adds a later loss by the same cause.
    pub const fn add(&mut self, later: &Self) {
        self.mono_ns = later.mono_ns;
        self.count += later.count;
        self.accepts += later.accepts;
        self.closes += later.closes;
        self.time_waits += later.time_waits;
        self.others += later.others;
    }
}

/// What a trace ends with.
#[derive(Clone, Copy, Debug, Default)]
pub struct End {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// State changes shown
    pub transitions: u64,
    /// Connections seen, listeners included
    pub connections: u64,
    /// Of these, listeners
    pub listeners: u64,
    /// Connections still open, if they are looked for
    pub open: Option<u64>,
    /// Sum of all `Lost::count`
    pub lost: u64,
    /// How long it was, µs
    pub duration_us: u64,
}

/// The kernel's name of a reason for an RST, as records show it.
fn reset_reason(names: &HashMap<u32, String>, reason: u32) -> Option<String> {
    let name = names.get(&reason)?;
    let short = name.strip_prefix("SK_RST_REASON_").unwrap_or(name);
    Some(short.to_ascii_lowercase())
}

/// A way to print records.
pub trait Sink {
    /// What comes before the first record.
    fn start(&mut self, start: &Start, out: &mut Vec<u8>);
    /// What each new file begins with.
    fn header(&self, _out: &mut Vec<u8>) {}
    /// One record: a line, or on a terminal several.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>);
    /// A loss.
    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>);
    /// What comes after the last record.
    fn end(&mut self, end: &End, out: &mut Vec<u8>);
    /// The difference between the wall clock and `CLOCK_MONOTONIC`, ns; set before each batch.
    fn set_clock(&mut self, wall_minus_mono_ns: i64);
    /// The columns of the terminal that shows the lines, set before each batch; none where there is no
    /// terminal.
    fn set_width(&mut self, _columns: Option<usize>, _out: &mut Vec<u8>) {}
}

/// Which lines there are, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Transitions
    pub transition: bool,
    /// What each transition means, in words
    pub explain: bool,
    /// At a connection's end, all states in their order
    pub path: bool,
}
