//! NDJSON: one object per line, as `docs/events.md` describes it. What is not known is left out.

use std::{borrow::Cow, collections::BTreeMap, io, net::IpAddr};

use serde::{Serialize, ser::SerializeMap as _};
use serde_json::{Serializer, ser::Formatter};

use super::{End, Lines, Lost, Sink, Start, text, time::Clock};
use crate::event::{Connection, Event, State, Totals};

const V: u8 = 1;

/// Writes records as NDJSON.
#[derive(Debug)]
pub struct Json {
    clock: Clock,
    lines: Lines,
}

impl Json {
    /// `lines`: which lines a close becomes.
    pub fn new(lines: Lines) -> Self {
        Self {
            clock: Clock::default(),
            lines,
        }
    }

    fn line(
        &mut self,
        out: &mut Vec<u8>,
        mono_ns: u64,
        event: &'static str,
        body: &impl Serialize,
    ) {
        let head = Head {
            v: V,
            event,
            ts: self.clock.rfc3339(mono_ns),
            mono_us: mono_ns / 1000,
        };
        let begin = out.len();
        let written = write_object(out, &head)
            .and_then(|()| {
                // Both are objects: drop `}` and `{` between them and put a comma there.
                out.pop();
                let joint = out.len();
                write_object(out, body).map(|()| joint)
            })
            .map(|joint| {
                if out.get(joint..) == Some(b"{}") {
                    out.truncate(joint);
                    out.push(b'}');
                } else if let Some(byte) = out.get_mut(joint) {
                    *byte = b',';
                }
                out.push(b'\n');
            });
        // Writing plain values to memory does not fail; a line must be whole or absent.
        if written.is_err() {
            out.truncate(begin);
        }
    }
}

#[derive(Serialize)]
struct Head {
    v: u8,
    event: &'static str,
    ts: String,
    mono_us: u64,
}

#[derive(Serialize)]
struct About<'a> {
    conn: String,
    role: &'static str,
    family: &'static str,
    #[serde(skip_serializing_if = "is_false")]
    mapped: bool,
    laddr: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    lport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raddr: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comm: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    pid_source: &'static str,
    netns: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

impl<'a> About<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self {
            conn: format!("{:x}", connection.id()),
            role: connection.role(),
            family: if connection.is_v4() { "ipv4" } else { "ipv6" },
            mapped: connection.is_mapped(),
            laddr: connection.laddr(),
            lport: connection.lport(),
            raddr: connection.raddr(),
            rport: connection.rport(),
            pid: connection.pid(),
            comm: (!connection.comm().is_empty())
                .then(|| String::from_utf8_lossy(connection.comm())),
            uid: connection.uid(),
            pid_source: connection.pid_source(),
            netns: connection.netns(),
            cgroup: connection.cgroup().map(|id| id.to_string()),
        }
    }
}

#[derive(Serialize)]
struct TransitionLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    old: &'static str,
    new: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    in_old_us: Option<u64>,
}

#[derive(Serialize)]
struct SocketLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    state: &'static str,
}

#[derive(Serialize)]
struct AcceptLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listener_pid: Option<u32>,
}

#[derive(Serialize)]
struct CloseLine<'a> {
    #[serde(flatten)]
    about: About<'a>,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closer_pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_us: Option<u64>,
    states: States<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_wait_us: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    partial: bool,
}

/// State to µs, in the order they were entered.
struct States<'a>(&'a Totals);

impl Serialize for States<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (State(number), us) in self.0.states() {
            map.serialize_entry(State(number).name(), &us)?;
        }
        map.end()
    }
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
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(value: &u64) -> bool {
    *value == 0
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

impl Sink for Json {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        let line = StartLine {
            version: env!("CARGO_PKG_VERSION"),
            kernel: &start.kernel,
            hooks: &start.hooks,
            filters: &start.filters,
        };
        self.line(out, start.mono_ns, "start", &line);
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) -> u64 {
        let connection = event.connection();
        let mono_ns = connection.mono_ns();
        let about = About::new(connection);
        let mut lines = 0;
        match event {
            Event::Socket(_) => {
                let line = SocketLine {
                    about,
                    state: connection.oldstate().name(),
                };
                self.line(out, mono_ns, "socket", &line);
                lines += 1;
            }
            Event::Accept(_) => {
                let line = AcceptLine {
                    about,
                    wait_us: connection.span_us(),
                    listener_pid: connection.peer_pid(),
                };
                self.line(out, mono_ns, "accept", &line);
                lines += 1;
            }
            Event::Transition(_) => {
                self.line(out, mono_ns, "transition", &transition(about, connection));
                lines += 1;
            }
            Event::Close(_, totals) => {
                if self.lines.transition && !totals.is_deduced() {
                    self.line(out, mono_ns, "transition", &transition(about, connection));
                    lines += 1;
                }
                if self.lines.close {
                    let line = CloseLine {
                        about: About::new(connection),
                        reason: totals.reason(),
                        errno: totals.errno(),
                        closer_pid: totals.closer_pid(),
                        duration_us: totals.duration_us(),
                        states: States(totals),
                        connect_us: totals.connect_us(),
                        accept_wait_us: totals.accept_wait_us(),
                        partial: connection.is_partial(),
                    };
                    self.line(out, mono_ns, "close", &line);
                    lines += 1;
                }
            }
        }
        lines
    }

    fn lost(&mut self, lost: &Lost, out: &mut Vec<u8>) {
        let line = LostLine {
            count: lost.count,
            cause: lost.cause,
            accepts: lost.accepts,
            closes: lost.closes,
        };
        self.line(out, lost.mono_ns, "lost", &line);
    }

    fn end(&mut self, end: &End, out: &mut Vec<u8>) {
        let line = EndLine {
            transitions: end.transitions,
            connections: end.connections,
            lost: end.lost,
            duration_us: end.duration_us,
        };
        self.line(out, end.mono_ns, "end", &line);
    }

    fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }
}

fn transition<'a>(about: About<'a>, connection: &Connection) -> TransitionLine<'a> {
    TransitionLine {
        about,
        old: connection.oldstate().name(),
        new: connection.newstate().name(),
        in_old_us: connection.span_us(),
    }
}
