//! Records to text. Pure: a sink appends bytes to a buffer and knows no file.

pub mod json;
mod pen;
mod remembered;
pub mod table;
pub mod text;
pub mod time;

use std::collections::{BTreeMap, HashMap};

use crate::{
    event::{Connection, ETIMEDOUT, Event, Totals},
    explain::{self, Evidence, Step},
};

/// What a trace begins with.
#[derive(Debug)]
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
    /// Ends of `TIME_WAIT` lost: of these the kernel reports no transition
    pub time_waits: u64,
    /// Records of other kinds lost
    pub others: u64,
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

/// The kernel's name of a reason for an RST, as records show it.
fn reset_reason(names: &HashMap<u32, String>, reason: u32) -> Option<String> {
    let name = names.get(&reason)?;
    let short = name.strip_prefix("SK_RST_REASON_").unwrap_or(name);
    Some(short.to_ascii_lowercase())
}

/// What a transition means on the wire, as far as it is proven.
fn explanation(connection: &Connection, totals: Option<&Totals>) -> &'static str {
    let mut evidence = Evidence {
        span_us: connection.span_us(),
        // That nobody did is not known: not every acceptance is seen on every kernel.
        accepted: (connection.pid_source() == "accept").then_some(true),
        fast_open: connection.is_without_fastopen().then_some(false),
        ..Evidence::default()
    };
    if let Some(totals) = totals {
        evidence.inferred = totals.is_deduced();
        evidence.err = Some(match totals.reason() {
            // The end of a `FIN_WAIT2` leaves no error.
            "timeout" => ETIMEDOUT,
            _ => totals.err(),
        });
        evidence.by_close = totals.is_by_close();
        evidence.is_reset = !totals.is_reason_inferred(totals.reason());
        let reset = match totals.reason() {
            "reset_sent" => Some(true),
            "reset_received" => Some(false),
            _ => totals.reset_sent(),
        };
        evidence.reset = reset.map(|sent| {
            if sent {
                explain::Reset::Sent
            } else {
                explain::Reset::Received
            }
        });
        if totals.reason() == "listener_closed" {
            evidence.accepted = Some(false);
        }
        evidence.retransmits = totals.syn_retransmits().unwrap_or(0);
    }
    explain::explain(&Step {
        role: explain::Role::named(connection.role()),
        old: connection.oldstate().0,
        new: connection.newstate().0,
        evidence,
    })
}

/// A way to print records.
pub trait Sink {
    /// What comes before the first record.
    fn start(&mut self, start: &Start, out: &mut Vec<u8>);
    /// What each new file begins with.
    fn header(&self, _out: &mut Vec<u8>) {}
    /// One record; returns the lines it made.
    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64;
    /// A loss.
    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>);
    /// What comes after the last record.
    fn end(&mut self, end: &End, out: &mut Vec<u8>);
    /// The difference between the wall clock and `CLOCK_MONOTONIC`, ns; told before each batch.
    fn set_clock(&mut self, wall_minus_mono_ns: i64);
    /// The columns of the terminal that shows the lines, told before each batch; none where there is no
    /// terminal.
    fn set_width(&mut self, _columns: Option<usize>, _out: &mut Vec<u8>) {}
}

/// Which lines an event becomes, and with what.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of the command line"
)]
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// Its last transition
    pub transition: bool,
    /// Its totals
    pub close: bool,
    /// What each transition means, in words
    pub explain: bool,
    /// In its totals, all states in their order
    pub path: bool,
}
