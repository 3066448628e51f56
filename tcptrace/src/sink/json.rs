//! NDJSON: one object per line, as `docs/events.md` describes it. What is not known is left out.
//!
//! Records come by the hundred thousand a second, so their lines are put together from bytes
//! that need no escaping, in one pass and without allocation; `serde_json` writes the rest:
//! process names, and the lines that come once.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};

use super::{
    End, Lines, Lost, Sink, Start,
    remembered::Remembered,
    reset_reason,
    text::{self, push_address, push_hex, push_number},
    time::Clock,
};
use crate::{
    event::{
        Accept, Close, Connection, Event, Listener, Reset, Retransmit, Socket, State, Transition,
    },
    explain,
};

// Keys are known when this is compiled: a copy of constant length needs no call.

macro_rules! key {
    ($out:expr, $key:literal) => {
        $out.extend_from_slice(concat!(",\"", $key, "\":").as_bytes())
    };
}

/// A text of ours, with nothing in it to escape.
macro_rules! text {
    ($out:expr, $key:literal, $text:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $out.extend_from_slice($text.as_bytes());
        $out.push(b'"');
    }};
}

macro_rules! known {
    ($out:expr, $key:literal, $number:expr) => {
        if let Some(number) = $number {
            key!($out, $key);
            push_number($out, u64::from(number));
        }
    };
}

macro_rules! address {
    ($out:expr, $key:literal, $address:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        push_address($out, $address);
        $out.push(b'"');
    }};
}

/// Most lines are shorter.
const LINE_BYTES: usize = 1024;

/// Writes records as NDJSON.
#[derive(Debug)]
pub struct Json {
    clock: Clock,
    lines: Lines,
    reset_reasons: HashMap<u32, String>,
    remembered: Remembered,
    /// `old` and `new` of each change, by [`change_index`]
    changes: Vec<String>,
}

impl Json {
    /// `lines`: which lines a close becomes.
    pub fn new(lines: Lines) -> Self {
        Self {
            clock: Clock::default(),
            lines,
            reset_reasons: HashMap::new(),
            remembered: Remembered::default(),
            changes: (0..=u8::MAX)
                .map(|index| {
                    let (old, new) = (State(index >> 4).name(), State(index & 15).name());
                    format!(",\"old\":\"{old}\",\"new\":\"{new}\"")
                })
                .collect(),
        }
    }

    fn about(&mut self, connection: &Connection, out: &mut Vec<u8>) {
        // Where a connection has but one line, nothing is worth remembering.
        if self.lines.transition && self.remembered.recall(connection, out) {
            return;
        }
        let begin = out.len();
        push_about(connection, out);
        if self.lines.transition {
            self.remembered.keep(connection, &out[begin..]);
        }
    }

    /// Begins a line with what is in every record.
    #[expect(
        clippy::inline_always,
        reason = "the name of the event is then a copy of constant length"
    )]
    #[inline(always)]
    fn head(&mut self, out: &mut Vec<u8>, event: &'static str, mono_ns: u64) {
        // Once, for most lines, and not with each of their parts.
        out.reserve(LINE_BYTES);
        out.extend_from_slice(b"{\"v\":1,\"event\":\"");
        out.extend_from_slice(event.as_bytes());
        out.extend_from_slice(b"\",\"ts\":\"");
        self.clock.push_rfc3339(mono_ns, out);
        out.extend_from_slice(b"\",\"mono_us\":");
        push_number(out, mono_ns / 1000);
    }

    fn transition(&mut self, transition: &Transition, out: &mut Vec<u8>) {
        let connection = transition.connection();
        self.head(out, "transition", connection.mono_ns());
        self.about(connection, out);
        let (old, new) = (transition.oldstate(), transition.newstate());
        if let Some(change) = change_index(old, new).and_then(|at| self.changes.get(at)) {
            out.extend_from_slice(change.as_bytes());
        } else {
            text!(out, "old", old.name());
            text!(out, "new", new.name());
        }
        known!(out, "in_old_us", transition.in_old_us());
        if transition.is_inferred() {
            out.extend_from_slice(b",\"inferred\":true");
        }
        if self.lines.explain {
            text!(out, "explain", explain::transition(transition));
        }
        end_line(out);
    }

    fn socket(&mut self, socket: &Socket, out: &mut Vec<u8>) {
        let connection = socket.connection();
        self.head(out, "socket", connection.mono_ns());
        self.about(connection, out);
        text!(out, "state", socket.state().name());
        end_line(out);
    }

    fn accept(&mut self, accept: &Accept, out: &mut Vec<u8>) {
        let connection = accept.connection();
        self.head(out, "accept", connection.mono_ns());
        self.about(connection, out);
        known!(out, "wait_us", accept.wait_us());
        known!(out, "backlog", accept.backlog());
        known!(out, "backlog_max", accept.backlog_max());
        known!(out, "listener_pid", accept.listener_pid());
        end_line(out);
    }

    fn retransmit(&mut self, retransmit: &Retransmit, out: &mut Vec<u8>) {
        let connection = retransmit.connection();
        self.head(out, "retransmit", connection.mono_ns());
        self.about(connection, out);
        text!(out, "kind", retransmit.segment().name());
        text!(out, "state", retransmit.state().name());
        known!(out, "count", retransmit.count());
        end_line(out);
    }

    fn reset(&mut self, reset: &Reset, out: &mut Vec<u8>) {
        let connection = reset.connection();
        self.head(out, "reset", connection.mono_ns());
        self.about(connection, out);
        text!(out, "direction", reset.direction().name());
        let named = |reason| reset_reason(&self.reset_reasons, reason);
        if let Some(reason) = reset.reason().and_then(named) {
            push_outside(out, "reason", reason.as_bytes());
        }
        text!(out, "state", reset.state().name());
        if reset.is_inferred() {
            out.extend_from_slice(b",\"inferred\":true");
        }
        end_line(out);
    }

    fn listener(&mut self, listener: &Listener, out: &mut Vec<u8>) {
        let connection = listener.connection();
        self.head(out, "listener", connection.mono_ns());
        self.about(connection, out);
        known!(out, "backlog", listener.backlog());
        known!(out, "backlog_max", listener.backlog_max());
        known!(out, "half_open", listener.half_open());
        known!(out, "half_open_max", listener.backlog_max());
        known!(out, "dropped", listener.dropped());
        known!(out, "unanswered", listener.unanswered());
        known!(out, "cookies_sent", listener.cookies_sent());
        known!(out, "not_accepted_us", listener.not_accepted_us());
        end_line(out);
    }

    fn close(&mut self, close: &Close, out: &mut Vec<u8>) {
        let connection = close.connection();
        self.head(out, "close", connection.mono_ns());
        self.about(connection, out);
        text!(out, "reason", close.reason().name());
        if let Some(side) = close.closed_by() {
            text!(out, "closed_by", side.name());
        }
        if let Some(errno) = close.errno() {
            text!(out, "errno", errno);
        }
        known!(out, "closer_pid", close.closer_pid());
        known!(out, "duration_us", close.duration_us());
        key!(out, "states");
        out.push(b'{');
        for (nth, (state, us)) in close.states().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(state.name().as_bytes());
            out.extend_from_slice(b"\":");
            push_number(out, us);
        }
        out.push(b'}');
        known!(out, "connect_us", close.connect_us());
        known!(out, "handshake_us", close.handshake_us());
        known!(out, "accept_wait_us", close.accept_wait_us());
        push_counters(out, close);
        if close.is_inferred() || close.is_reason_inferred() {
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

/// None for what is no state: the kernel has fewer than 16.
fn change_index(old: State, new: State) -> Option<usize> {
    (old.0 < 16 && new.0 < 16).then(|| usize::from(old.0) << 4 | usize::from(new.0))
}

/// What every record says of a connection.
fn push_about(connection: &Connection, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"conn\":\"");
    push_hex(out, connection.id());
    out.extend_from_slice(b"\",\"role\":\"");
    out.extend_from_slice(connection.role().name().as_bytes());
    out.extend_from_slice(if connection.is_v4() {
        b"\",\"family\":\"ipv4\"".as_slice()
    } else {
        b"\",\"family\":\"ipv6\"".as_slice()
    });
    if connection.is_mapped() {
        out.extend_from_slice(b",\"mapped\":true");
    }
    address!(out, "laddr", connection.laddr());
    known!(out, "lport", connection.lport());
    if let Some(raddr) = connection.raddr() {
        address!(out, "raddr", raddr);
    }
    known!(out, "rport", connection.rport());
    known!(out, "pid", connection.pid());
    push_comm(out, connection.comm());
    known!(out, "uid", connection.uid());
    text!(out, "pid_source", connection.owner_source().name());
    key!(out, "netns");
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

/// What the kernel has counted.
fn push_counters(out: &mut Vec<u8>, close: &Close) {
    let Some(counters) = close.counters() else {
        return;
    };
    known!(out, "tx_bytes", Some(counters.tx_bytes));
    known!(out, "rx_bytes", close.rx_bytes());
    known!(out, "retrans_bytes", Some(counters.retrans_bytes));
    known!(out, "tx_segs", Some(counters.tx_segs));
    known!(out, "rx_segs", Some(counters.rx_segs));
    known!(out, "retransmits", Some(counters.retransmits));
    known!(out, "syn_retransmits", close.syn_retransmits());
    // Before the handshake is complete these are what the kernel would begin with.
    if !close.was_established() {
        return;
    }
    known!(out, "srtt_us", close.srtt_us());
    known!(out, "min_rtt_us", close.min_rtt_us());
    key!(out, "mss");
    push_number(out, u64::from(counters.mss_bytes));
    key!(out, "cwnd");
    push_number(out, u64::from(counters.cwnd));
    if let Some(name) = close.congestion() {
        push_outside(out, "congestion", name);
    }
    if let Some((send, receive)) = close.wscales() {
        key!(out, "snd_wscale");
        push_number(out, u64::from(send));
        key!(out, "rcv_wscale");
        push_number(out, u64::from(receive));
    }
    key!(out, "options");
    out.push(b'[');
    for (nth, option) in close.options().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(option.name().as_bytes());
        out.push(b'"');
    }
    out.push(b']');
    if let Some((ours, theirs)) = close.isns() {
        key!(out, "isn");
        push_number(out, u64::from(ours));
        key!(out, "peer_isn");
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
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
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

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        match event {
            Event::Socket(socket) => self.socket(socket, out),
            Event::Transition(transition) => self.transition(transition, out),
            Event::Accept(accept) => self.accept(accept, out),
            Event::Retransmit(retransmit) => self.retransmit(retransmit, out),
            Event::Reset(reset) => self.reset(reset, out),
            Event::Listener(listener) => self.listener(listener, out),
            Event::Close(close) => self.close(close, out),
        }
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        let line = LostLine {
            count: lost.count,
            cause: lost.cause.name(),
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
}
