//! NDJSON: one object per line, as `docs/events.md` describes it. What is not known is left out.
//!
//! Records come by the hundred thousand a second, so their lines are put together from bytes
//! that need no escaping, in one pass and without allocation; `serde_json` writes the rest:
//! process names, and the lines that come once.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Write as _},
    net::IpAddr,
};

use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

use super::{
    End, Lines, Lost, Sink, Start, explanation, remembered::Remembered, reset_reason, text,
    time::Clock,
};
use crate::event::{Connection, Event, Totals};

/// Writes records as NDJSON.
#[derive(Debug)]
pub struct Json {
    clock: Clock,
    lines: Lines,
    reset_reasons: HashMap<u32, String>,
    remembered: Remembered,
}

impl Json {
    /// `lines`: which lines a close becomes.
    pub fn new(lines: Lines) -> Self {
        Self {
            clock: Clock::default(),
            lines,
            reset_reasons: HashMap::new(),
            remembered: Remembered::default(),
        }
    }

    fn about(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        self.remembered
            .push(connection, out, |text| push_about(connection, text));
    }

    /// Begins a line with what is in every record.
    fn head(&mut self, out: &mut Vec<u8>, event: &'static str, mono_ns: u64) {
        out.extend_from_slice(b"{\"v\":1,\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        self.clock.push_rfc3339(mono_ns, out);
        out.extend_from_slice(b"\",\"mono_us\":");
        push_number(out, mono_ns / 1000);
    }

    fn transition(&mut self, connection: &Connection, totals: Option<&Totals>, out: &mut Vec<u8>) {
        self.head(out, "transition", connection.mono_ns());
        self.about(connection, out);
        push_text(out, "old", connection.oldstate().name());
        push_text(out, "new", connection.newstate().name());
        push_known(out, "in_old_us", connection.span_us());
        if connection.is_inferred() {
            out.extend_from_slice(b",\"inferred\":true");
        }
        if self.lines.explain {
            push_text(out, "explain", explanation(connection, totals));
        }
        end_line(out);
    }

    fn close(&mut self, connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
        self.head(out, "close", connection.mono_ns());
        self.about(connection, out);
        push_text(out, "reason", totals.reason());
        if let Some(side) = totals.closed_by() {
            push_text(out, "closed_by", side);
        }
        if let Some(errno) = totals.errno() {
            push_text(out, "errno", errno);
        }
        push_known(out, "closer_pid", totals.closer_pid().map(u64::from));
        push_known(out, "duration_us", totals.duration_us());
        push_key(out, "states");
        out.push(b'{');
        for (nth, (state, us)) in totals.states().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(state.name().as_bytes());
            out.extend_from_slice(b"\":");
            push_number(out, us);
        }
        out.push(b'}');
        push_known(out, "connect_us", totals.connect_us());
        push_known(out, "handshake_us", totals.handshake_us().map(u64::from));
        push_known(out, "accept_wait_us", totals.accept_wait_us());
        push_counters(out, totals);
        if connection.is_inferred() {
            out.extend_from_slice(b",\"inferred\":true");
        }
        if connection.is_partial() {
            out.extend_from_slice(b",\"partial\":true");
        }
        end_line(out);
    }

    /// A line that comes seldom: `body` is a struct.
    fn seldom(
        &mut self,
        out: &mut Vec<u8>,
        mono_ns: u64,
        event: &'static str,
        body: &impl Serialize,
    ) {
        let begin = out.len();
        self.head(out, event, mono_ns);
        let joint = out.len();
        // Writing plain values to memory does not fail; a line must be whole or absent.
        match write_object(out, body) {
            Ok(()) => {
                if let Some(brace) = out.get_mut(joint) {
                    *brace = b',';
                }
                out.push(b'\n');
            }
            Err(why) => {
                log::error!("{event}: {why}");
                out.truncate(begin);
            }
        }
    }
}

/// What every record says of a connection.
fn push_about(connection: &Connection, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"conn\":\"");
    push_hex(out, connection.id());
    out.extend_from_slice(b"\",\"role\":\"");
    out.extend_from_slice(connection.role().as_bytes());
    out.extend_from_slice(if connection.is_v4() {
        b"\",\"family\":\"ipv4\"".as_slice()
    } else {
        b"\",\"family\":\"ipv6\"".as_slice()
    });
    if connection.is_mapped() {
        out.extend_from_slice(b",\"mapped\":true");
    }
    push_address(out, "laddr", connection.laddr());
    push_known(out, "lport", connection.lport().map(u64::from));
    if let Some(raddr) = connection.raddr() {
        push_address(out, "raddr", raddr);
    }
    push_known(out, "rport", connection.rport().map(u64::from));
    push_known(out, "pid", connection.pid().map(u64::from));
    push_comm(out, connection.comm());
    push_known(out, "uid", connection.uid().map(u64::from));
    push_text(out, "pid_source", connection.pid_source());
    push_key(out, "netns");
    push_number(out, u64::from(connection.netns()));
    if let Some(cgroup) = connection.cgroup() {
        out.extend_from_slice(b",\"cgroup\":\"");
        push_number(out, cgroup);
        out.push(b'"');
    }
}

fn end_line(out: &mut Vec<u8>) {
    out.extend_from_slice(b"}\n");
}

fn push_key(out: &mut Vec<u8>, key: &'static str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A text of ours, with nothing in it to escape.
fn push_text(out: &mut Vec<u8>, key: &'static str, text: &'static str) {
    push_key(out, key);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn push_known(out: &mut Vec<u8>, key: &'static str, number: Option<u64>) {
    if let Some(number) = number {
        push_key(out, key);
        push_number(out, number);
    }
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn push_hex(out: &mut Vec<u8>, number: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (64 - number.leading_zeros()).div_ceil(4).max(1);
    for nibble in (0..nibbles).rev() {
        out.push(DIGITS[(number >> (nibble * 4) & 15) as usize]);
    }
}

fn push_address(out: &mut Vec<u8>, key: &'static str, address: IpAddr) {
    push_key(out, key);
    out.push(b'"');
    match address {
        IpAddr::V4(address) => {
            for (nth, octet) in address.octets().into_iter().enumerate() {
                if nth > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => {
            // Writing to memory does not fail.
            let _infallible = write!(out, "{address}");
        }
    }
    out.push(b'"');
}

/// What the kernel has counted.
fn push_counters(out: &mut Vec<u8>, totals: &Totals) {
    let Some(counters) = totals.counters() else {
        return;
    };
    let known = |number: Option<u32>| number.map(u64::from);
    for (key, number) in [
        ("tx_bytes", counters.tx_bytes),
        ("rx_bytes", totals.rx_bytes().unwrap_or(0)),
        ("retrans_bytes", counters.retrans_bytes),
        ("tx_segs", u64::from(counters.tx_segs)),
        ("rx_segs", u64::from(counters.rx_segs)),
        ("retransmits", u64::from(counters.retransmits)),
    ] {
        push_key(out, key);
        push_number(out, number);
    }
    push_known(out, "syn_retransmits", known(totals.syn_retransmits()));
    // Before the handshake is complete these are what the kernel would begin with.
    if !totals.was_established() {
        return;
    }
    push_known(out, "srtt_us", known(totals.srtt_us()));
    push_known(out, "min_rtt_us", known(totals.min_rtt_us()));
    push_key(out, "mss");
    push_number(out, u64::from(counters.mss_bytes));
    push_key(out, "cwnd");
    push_number(out, u64::from(counters.cwnd));
    if let Some(name) = totals.congestion() {
        push_outside(out, "congestion", name.as_bytes());
    }
    if let Some((send, receive)) = totals.wscales() {
        push_key(out, "snd_wscale");
        push_number(out, u64::from(send));
        push_key(out, "rcv_wscale");
        push_number(out, u64::from(receive));
    }
    push_key(out, "options");
    out.push(b'[');
    for (nth, option) in totals.options().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(option.as_bytes());
        out.push(b'"');
    }
    out.push(b']');
    if let Some((ours, theirs)) = totals.isns() {
        push_key(out, "isn");
        push_number(out, u64::from(ours));
        push_key(out, "peer_isn");
        push_number(out, u64::from(theirs));
    }
}

/// A process name: bytes that anybody may choose.
fn push_comm(out: &mut Vec<u8>, comm: &[u8]) {
    if !comm.is_empty() {
        push_outside(out, "comm", comm);
    }
}

/// Text from outside.
fn push_outside(out: &mut Vec<u8>, key: &'static str, comm: &[u8]) {
    push_key(out, key);
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if comm.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(comm);
        out.push(b'"');
    } else {
        let begin = out.len();
        if write_object(out, &String::from_utf8_lossy(comm)).is_err() {
            out.truncate(begin);
            out.extend_from_slice(b"\"\"");
        }
    }
}

/// JSON in which no string drives a terminal: `serde_json` escapes the C0 control characters,
/// this the others of `text::is_unsafe`. Parsed, the string is what it was.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| text::is_unsafe(*c)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

fn write_object(out: &mut Vec<u8>, object: &impl Serialize) -> serde_json::Result<()> {
    object.serialize(&mut Serializer::with_formatter(out, Harmless))
}

#[derive(Serialize)]
struct StartLine<'a> {
    version: &'static str,
    kernel: &'a str,
    hooks: &'a BTreeMap<&'static str, String>,
    filters: &'a BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct LostLine {
    count: u64,
    cause: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    accepts: u64,
    #[serde(skip_serializing_if = "is_zero")]
    closes: u64,
    #[serde(skip_serializing_if = "is_zero")]
    time_waits: u64,
    #[serde(skip_serializing_if = "is_zero")]
    others: u64,
}

#[derive(Serialize)]
struct EndLine {
    transitions: u64,
    connections: u64,
    lost: u64,
    duration_us: u64,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Sink for Json {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.reset_reasons.clone_from(&start.reset_reasons);
        let line = StartLine {
            version: env!("CARGO_PKG_VERSION"),
            kernel: &start.kernel,
            hooks: &start.hooks,
            filters: &start.filters,
        };
        self.seldom(out, start.mono_ns, "start", &line);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64 {
        let connection = event.connection();
        match event {
            Event::Socket(_) => {
                self.head(out, "socket", connection.mono_ns());
                self.about(connection, out);
                push_text(out, "state", connection.oldstate().name());
                end_line(out);
                1
            }
            Event::Accept(_, numbers) => {
                self.head(out, "accept", connection.mono_ns());
                self.about(connection, out);
                push_known(out, "wait_us", connection.span_us());
                push_known(out, "backlog", numbers.backlog().map(u64::from));
                push_known(out, "backlog_max", numbers.backlog_max().map(u64::from));
                push_known(out, "listener_pid", connection.peer_pid().map(u64::from));
                end_line(out);
                1
            }
            Event::Retransmit(_, numbers) => {
                self.head(out, "retransmit", connection.mono_ns());
                self.about(connection, out);
                push_text(out, "kind", connection.retransmitted());
                push_text(out, "state", connection.oldstate().name());
                push_known(out, "count", numbers.count().map(u64::from));
                end_line(out);
                1
            }
            Event::Reset(_, numbers) => {
                self.head(out, "reset", connection.mono_ns());
                self.about(connection, out);
                push_text(out, "direction", connection.direction());
                let named = |reason| reset_reason(&self.reset_reasons, reason);
                if let Some(reason) = numbers.reset_reason().and_then(named) {
                    push_outside(out, "reason", reason.as_bytes());
                }
                push_text(out, "state", connection.oldstate().name());
                end_line(out);
                1
            }
            Event::Listener(_, numbers) => {
                self.head(out, "listener", connection.mono_ns());
                self.about(connection, out);
                for (key, number) in [
                    ("backlog", numbers.backlog()),
                    ("backlog_max", numbers.backlog_max()),
                    ("half_open", numbers.half_open()),
                    ("half_open_max", numbers.backlog_max()),
                    ("dropped", numbers.dropped()),
                    ("unanswered", numbers.unanswered()),
                    ("cookies_sent", numbers.cookies_sent()),
                ] {
                    push_known(out, key, number.map(u64::from));
                }
                push_known(out, "not_accepted_us", connection.span_us());
                end_line(out);
                1
            }
            Event::Transition(_) => {
                self.transition(connection, None, out);
                1
            }
            Event::Close(_, totals) => {
                let mut lines = 0;
                if self.lines.transition && totals.shows_transition() {
                    self.transition(connection, Some(totals), out);
                    lines += 1;
                }
                if self.lines.close {
                    self.close(connection, totals, out);
                    lines += 1;
                }
                lines
            }
        }
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        let line = LostLine {
            count: lost.count,
            cause: lost.cause,
            accepts: lost.accepts,
            closes: lost.closes,
            time_waits: lost.time_waits,
            others: lost.others,
        };
        self.seldom(out, lost.mono_ns, "lost", &line);
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        let line = EndLine {
            transitions: end.transitions,
            connections: end.connections,
            lost: end.lost,
            duration_us: end.duration_us,
        };
        self.seldom(out, end.mono_ns, "end", &line);
    }

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comm(bytes: &[u8]) -> String {
        let mut out = b"{\"v\":1".to_vec();
        push_comm(&mut out, bytes);
        out.push(b'}');
        assert!(!out.iter().any(u8::is_ascii_control), "{out:?}");
        let text = String::from_utf8(out).unwrap();
        assert!(!text.chars().any(text::is_unsafe), "{text:?}");
        let parsed: serde_json::Value = serde_json::from_str(&text).unwrap();
        parsed["comm"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_name_comes_back_as_it_was_and_drives_nothing() {
        for name in [
            "nginx",
            "a b",
            "q\"uo\\te",
            "\u{1b}[31m",
            "nl\nx",
            "\u{7f}\u{9b}31m",
        ] {
            assert_eq!(comm(name.as_bytes()), name);
        }
        assert_eq!(comm(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        for byte in 1..=255_u8 {
            comm(&[byte; 15]);
        }
    }

    #[test]
    fn hex_is_as_short_as_ss_prints_it() {
        for number in [0, 1, 15, 16, 0x1001, u64::MAX] {
            let mut out = Vec::new();
            push_hex(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{number:x}"));
        }
    }
}
