//! CSV as RFC 4180 has it: a header, the same columns in every row, CRLF at its end. A cell is empty
//! where a record does not have the field.
//!
//! A spreadsheet takes a cell that begins with `=` for a formula, and a process can be called so.

use std::{collections::BTreeMap, net::IpAddr, ops::Range};

use super::{
    End, Lost, Sink, Start,
    fields::{self, Field, Fields, Kind, Names},
    text::{push_address, push_escaped, push_hex, push_network, push_number},
    time::Clock,
};
use crate::event::{Event, Network, State};

/// The columns. New ones are added at the end.
pub const COLUMNS: [&str; 95] = [
    "v",
    "event",
    "ts",
    "mono_us",
    "conn",
    "role",
    "family",
    "mapped",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "pid",
    "comm",
    "uid",
    "pid_source",
    "netns",
    "cgroup",
    "old",
    "new",
    "in_old_us",
    "explain",
    "kind",
    "direction",
    "reason",
    "state",
    "count",
    "cause",
    "wait_us",
    "backlog",
    "backlog_max",
    "listener_pid",
    "half_open",
    "half_open_max",
    "dropped",
    "unanswered",
    "cookies_sent",
    "not_accepted_us",
    "closed_by",
    "errno",
    "closer_pid",
    "transitions",
    "connections",
    "lost",
    "duration_us",
    "states",
    "connect_us",
    "handshake_us",
    "accept_wait_us",
    "tx_bytes",
    "rx_bytes",
    "retrans_bytes",
    "tx_segs",
    "rx_segs",
    "retransmits",
    "syn_retransmits",
    "srtt_us",
    "min_rtt_us",
    "mss",
    "cwnd",
    "congestion",
    "snd_wscale",
    "rcv_wscale",
    "options",
    "isn",
    "peer_isn",
    "inferred",
    "partial",
    "accepts",
    "closes",
    "time_waits",
    "others",
    "version",
    "kernel",
    "hooks",
    "filters",
    "phase",
    "waiting_us",
    "listeners",
    "ppid",
    "exe",
    "args",
    "container",
    "pod_uid",
    "unit",
    "old_pid",
    "old_comm",
    "how",
    "closed_because",
    "signal",
    "role_inferred",
    "age_us",
    "in_state_us",
    "open",
    "half_open_from",
];

/// Writes records as CSV.
#[derive(Debug)]
pub struct Csv {
    clock: Clock,
    names: Names,
    header: bool,
    row: Row,
}

impl Csv {
    /// `explain`: whether to say what transitions mean. `header`: whether it begins with one; what is
    /// appended to has one.
    pub fn new(explain: bool, header: bool) -> Self {
        Self {
            clock: Clock::default(),
            names: Names {
                explain,
                ..Names::default()
            },
            header,
            row: Row::default(),
        }
    }

    fn seldom(
        &mut self,
        kind: Kind,
        mono_ns: u64,
        out: &mut Vec<u8>,
        fields: impl FnOnce(&mut Row),
    ) {
        self.row.begin(kind, &mut self.clock, mono_ns);
        fields(&mut self.row);
        self.row.end(out);
    }
}

/// One row, its cells in any order.
#[derive(Debug)]
struct Row {
    text: Vec<u8>,
    cells: [Range<usize>; COLUMNS.len()],
    /// The column of the last cell: the next one mostly follows
    last: usize,
}

impl Default for Row {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            cells: [const { 0..0 }; COLUMNS.len()],
            last: 0,
        }
    }
}

impl Row {
    fn begin(&mut self, kind: Kind, clock: &mut Clock, mono_ns: u64) {
        self.text.clear();
        self.cells.fill(0..0);
        self.last = COLUMNS.len() - 1;
        self.number(field!("v"), 1);
        self.text(field!("event"), kind.name());
        self.cell(field!("ts"), |text| clock.push_rfc3339(mono_ns, text));
        self.number(field!("mono_us"), mono_ns / 1000);
    }

    fn cell(&mut self, field: Field, push: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.text.len();
        push(&mut self.text);
        let (before, after) = COLUMNS.split_at(self.last + 1);
        let is_it = |name: &&str| *name == field.name;
        let found = after
            .iter()
            .position(is_it)
            .map(|at| at + before.len())
            .or_else(|| before.iter().position(is_it));
        debug_assert!(found.is_some(), "no column for {}", field.name);
        if let Some(column) = found {
            self.cells[column] = begin..self.text.len();
            self.last = column;
        }
    }

    fn end(&self, out: &mut Vec<u8>) {
        for (nth, cell) in self.cells.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            push_cell(&self.text[cell.clone()], out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 4180, section 2, rules 5 to 7.
fn push_cell(cell: &[u8], out: &mut Vec<u8>) {
    if !cell.iter().any(|byte| matches!(byte, b',' | b'"')) {
        out.extend_from_slice(cell);
        return;
    }
    out.push(b'"');
    for byte in cell {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

impl Fields for Row {
    fn number(&mut self, field: Field, number: u64) {
        self.cell(field, |text| push_number(text, number));
    }

    fn large(&mut self, field: Field, number: u64) {
        self.number(field, number);
    }

    fn hex(&mut self, field: Field, number: u64) {
        self.cell(field, |text| push_hex(text, number));
    }

    fn text(&mut self, field: Field, word: &str) {
        self.cell(field, |text| text.extend_from_slice(word.as_bytes()));
    }

    /// Escaped as in the table, so that no cell holds a line break.
    fn outside(&mut self, field: Field, bytes: &[u8]) {
        self.cell(field, |text| {
            push_escaped(text, bytes);
        });
    }

    fn address(&mut self, field: Field, address: IpAddr) {
        self.cell(field, |text| push_address(text, address));
    }

    fn yes(&mut self, field: Field) {
        self.text(field, "true");
    }

    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>) {
        self.cell(field, |text| {
            for (nth, (network, number)) in networks.enumerate() {
                push_separator(nth, text);
                push_network(text, network);
                text.push(b'=');
                push_number(text, number.into());
            }
        });
    }

    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>) {
        self.cell(field, |text| {
            for (nth, (state, us)) in states.enumerate() {
                push_separator(nth, text);
                text.extend_from_slice(state.name().as_bytes());
                text.push(b'=');
                push_number(text, us);
            }
        });
    }

    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>) {
        self.cell(field, |text| {
            for (nth, word) in words.enumerate() {
                push_separator(nth, text);
                text.extend_from_slice(word.as_bytes());
            }
        });
    }

    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>) {
        self.cell(field, |text| {
            for (nth, (name, what)) in table.iter().enumerate() {
                push_separator(nth, text);
                text.extend_from_slice(name.as_bytes());
                text.push(b'=');
                push_escaped(text, what.as_bytes());
            }
        });
    }
}

fn push_separator(nth: usize, text: &mut Vec<u8>) {
    if nth > 0 {
        text.push(b';');
    }
}

impl Sink for Csv {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.names.reset_reasons.clone_from(&start.reset_reasons);
        self.names.processes = start.processes.clone();
        if self.header {
            self.header(out);
        }
        self.seldom(Kind::Start, start.mono_ns, out, |to| {
            fields::start(start, to);
        });
    }

    fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(COLUMNS.join(",").as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let Self {
            clock, names, row, ..
        } = self;
        let connection = event.connection();
        row.begin(Kind::from(event), clock, connection.mono_ns());
        fields::about(connection, names, row);
        fields::details(event, names, row);
        row.end(out);
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        self.seldom(Kind::Lost, lost.mono_ns, out, |to| fields::lost(lost, to));
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        self.seldom(Kind::End, end.mono_ns, out, |to| fields::end(end, to));
    }

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        for (cell, quoted) in [
            ("", ""),
            ("a b", "a b"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            let mut out = Vec::new();
            push_cell(cell.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), quoted);
        }
    }

    #[test]
    fn a_field_finds_its_column_in_any_order() {
        let mut row = Row::default();
        row.begin(Kind::Close, &mut Clock::default(), 5_000);
        row.text(field!("reason"), "normal");
        row.number(field!("pid"), 7);
        row.outside(field!("comm"), b"a\n,b");
        let mut out = Vec::new();
        row.end(&mut out);
        let text = String::from_utf8(out).unwrap();
        let cells: Vec<_> = text.trim_end().split(',').collect();
        let column = |name| COLUMNS.iter().position(|column| *column == name).unwrap();
        assert_eq!(cells[column("pid")], "7");
        assert_eq!(cells[column("mono_us")], "5");
        assert_eq!(cells[column("conn")], "");
        // The name has a comma, and is two parts here.
        assert_eq!(cells[column("comm")], "\"a\\n");
        assert_eq!(cells[column("reason") + 1], "normal");
    }
}
