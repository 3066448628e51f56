//! NDJSON: one object per line, as `docs/events.md` describes it. What is not known is left out.
//!
//! Records come by the hundred thousand a second, so their lines are put together from bytes
//! that need no escaping, in one pass and without allocation; `serde_json` writes text from outside.

use std::{collections::BTreeMap, io, net::IpAddr};

use serde::Serialize as _;
use serde_json::{Serializer, ser::Formatter};

use super::{
    End, Lines, Lost, Sink, Start,
    fields::{self, Field, Fields, Kind, Names},
    remembered::Remembered,
    text::{self, push_address, push_hex, push_network, push_number},
    time::Clock,
};
use crate::event::{Connection, Event, Network, State};

/// Most lines are shorter.
const LINE_BYTES: usize = 1024;

/// Writes records as NDJSON.
#[derive(Debug)]
pub struct Json {
    clock: Clock,
    lines: Lines,
    names: Names,
    remembered: Remembered,
    changes: Changes,
}

impl Json {
    /// `lines`: which lines a close becomes.
    pub fn new(lines: Lines) -> Self {
        Self {
            clock: Clock::default(),
            lines,
            names: Names {
                explain: lines.explain,
                ..Names::default()
            },
            remembered: Remembered::default(),
            changes: Changes::default(),
        }
    }

    /// A line that comes seldom.
    fn seldom(
        &mut self,
        out: &mut Vec<u8>,
        kind: Kind,
        mono_ns: u64,
        fields: impl FnOnce(&mut Object<'_>),
    ) {
        push_head(&mut self.clock, kind, mono_ns, out);
        fields(&mut Object {
            out,
            changes: &self.changes,
        });
        out.extend_from_slice(b"}\n");
    }
}

/// Begins a line with what is in every record.
#[inline]
fn push_head(clock: &mut Clock, kind: Kind, mono_ns: u64, out: &mut Vec<u8>) {
    // Once, for most lines, and not with each of their parts.
    out.reserve(LINE_BYTES);
    out.extend_from_slice(b"{\"v\":1,\"event\":\"");
    out.extend_from_slice(kind.name().as_bytes());
    out.extend_from_slice(b"\",\"ts\":\"");
    clock.push_rfc3339(mono_ns, out);
    out.extend_from_slice(b"\",\"mono_us\":");
    push_number(out, mono_ns / 1000);
}

/// What a record says of its connection, from memory where it is there.
fn push_about(
    connection: &Connection,
    names: &Names,
    remembered: Option<&mut Remembered>,
    object: &mut Object<'_>,
) {
    let Some(remembered) = remembered else {
        fields::about(connection, names, object);
        return;
    };
    if remembered.recall(connection, object.out) {
        return;
    }
    let begin = object.out.len();
    fields::about(connection, names, object);
    remembered.keep(connection, &object.out[begin..]);
}

/// `old` and `new` of each change, as lines have them.
#[derive(Debug)]
pub(super) struct Changes(Vec<String>);

impl Default for Changes {
    fn default() -> Self {
        let change = |index| {
            let (old, new) = (State(index >> 4).name(), State(index & 15).name());
            format!(",\"old\":\"{old}\",\"new\":\"{new}\"")
        };
        Self((0..=u8::MAX).map(change).collect())
    }
}

impl Changes {
    /// None for what is no state: the kernel has fewer than 16.
    fn text(&self, old: State, new: State) -> Option<&str> {
        let index =
            (old.0 < 16 && new.0 < 16).then(|| usize::from(old.0) << 4 | usize::from(new.0));
        self.0.get(index?).map(String::as_str)
    }
}

/// An object that is being written, after its first member.
pub(super) struct Object<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) changes: &'a Changes,
}

// Inlined, a name is a copy of constant length, which needs no call.
#[expect(
    clippy::inline_always,
    reason = "the names of fields are constants then"
)]
impl Fields for Object<'_> {
    #[inline(always)]
    fn number(&mut self, field: Field, number: u64) {
        self.out.extend_from_slice(field.json.as_bytes());
        push_number(self.out, number);
    }

    #[inline(always)]
    fn large(&mut self, field: Field, number: u64) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'"');
        push_number(self.out, number);
        self.out.push(b'"');
    }

    #[inline(always)]
    fn hex(&mut self, field: Field, number: u64) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'"');
        push_hex(self.out, number);
        self.out.push(b'"');
    }

    #[inline(always)]
    fn text(&mut self, field: Field, text: &str) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'"');
        self.out.extend_from_slice(text.as_bytes());
        self.out.push(b'"');
    }

    #[inline(always)]
    fn outside(&mut self, field: Field, bytes: &[u8]) {
        self.out.extend_from_slice(field.json.as_bytes());
        push_outside(self.out, bytes);
    }

    #[inline(always)]
    fn address(&mut self, field: Field, address: IpAddr) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'"');
        push_address(self.out, address);
        self.out.push(b'"');
    }

    #[inline(always)]
    fn yes(&mut self, field: Field) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.extend_from_slice(b"true");
    }

    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>) {
        self.out.extend_from_slice(field.json.as_bytes());
        for (nth, (network, number)) in networks.enumerate() {
            self.out.push(if nth == 0 { b'[' } else { b',' });
            self.out.extend_from_slice(b"{\"prefix\":\"");
            push_network(self.out, network);
            self.out.extend_from_slice(b"\",\"count\":");
            push_number(self.out, number.into());
            self.out.push(b'}');
        }
        self.out.push(b']');
    }

    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'{');
        for (nth, (state, us)) in states.enumerate() {
            if nth > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(state.name().as_bytes());
            self.out.extend_from_slice(b"\":");
            push_number(self.out, us);
        }
        self.out.push(b'}');
    }

    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'[');
        for (nth, word) in words.enumerate() {
            if nth > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(word.as_bytes());
            self.out.push(b'"');
        }
        self.out.push(b']');
    }

    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>) {
        self.out.extend_from_slice(field.json.as_bytes());
        self.out.push(b'{');
        for (nth, (name, text)) in table.iter().enumerate() {
            if nth > 0 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
            push_outside(self.out, text.as_bytes());
        }
        self.out.push(b'}');
    }

    #[inline(always)]
    fn change(&mut self, old: State, new: State) {
        if let Some(change) = self.changes.text(old, new) {
            self.out.extend_from_slice(change.as_bytes());
        } else {
            self.out.extend_from_slice(b",\"old\":\"");
            self.out.extend_from_slice(old.name().as_bytes());
            self.out.extend_from_slice(b"\",\"new\":\"");
            self.out.extend_from_slice(new.name().as_bytes());
            self.out.push(b'"');
        }
    }
}

/// Text from outside as a JSON string.
pub(super) fn push_outside(out: &mut Vec<u8>, bytes: &[u8]) {
    let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if bytes.iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    let begin = out.len();
    let text = String::from_utf8_lossy(bytes);
    // Writing to memory does not fail; a string must be whole.
    if text
        .serialize(&mut Serializer::with_formatter(&mut *out, Harmless))
        .is_err()
    {
        out.truncate(begin);
        out.extend_from_slice(b"\"\"");
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

impl Sink for Json {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.names.reset_reasons.clone_from(&start.reset_reasons);
        self.names.processes = start.processes.clone();
        self.seldom(out, Kind::Start, start.mono_ns, |to| {
            fields::start(start, to);
        });
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let Self {
            clock,
            lines,
            names,
            remembered,
            changes,
        } = self;
        let connection = event.connection();
        push_head(clock, Kind::from(event), connection.mono_ns(), out);
        let mut object = Object { out, changes };
        // Where a connection has but one line, nothing is worth remembering.
        let remembered = lines.transition.then_some(remembered);
        push_about(connection, names, remembered, &mut object);
        fields::details(event, names, &mut object);
        out.extend_from_slice(b"}\n");
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        self.seldom(out, Kind::Lost, lost.mono_ns, |to| fields::lost(lost, to));
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        self.seldom(out, Kind::End, end.mono_ns, |to| fields::end(end, to));
    }

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comm(bytes: &[u8]) -> String {
        let mut out = b"{\"comm\":".to_vec();
        push_outside(&mut out, bytes);
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
