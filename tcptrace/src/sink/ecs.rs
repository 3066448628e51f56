//! The records under the names of the Elastic Common Schema, one JSON object per line.
//!
//! What the schema has no field for stands under `tcptrace`, by its own name. `source` is who opened the
//! connection; of a connection whose beginning nobody saw, the local end.
//!
//! <https://www.elastic.co/docs/reference/ecs/ecs-field-reference>

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    End, Lost, Sink, Start,
    fields::{self, Field, Fields, Kind, Names},
    json::{Changes, Object, push_outside},
    text::{push_address, push_number},
    time::Clock,
};
use crate::event::{Event, Network, Reason, State};

/// The version of the schema that the names are from.
pub const VERSION: &str = "9.4.0";

/// Writes records under ECS names.
#[derive(Debug)]
pub struct Ecs {
    clock: Clock,
    names: Names,
    /// `host`, as it stands in each line
    host: Vec<u8>,
    document: Document,
}

impl Ecs {
    /// `explain`: whether to say what transitions mean. `host`: the name of this host.
    pub fn new(explain: bool, host: &str) -> Self {
        let mut member = b",\"host\":{\"name\":".to_vec();
        push_outside(&mut member, host.as_bytes());
        member.push(b'}');
        Self {
            clock: Clock::default(),
            names: Names {
                explain,
                ..Names::default()
            },
            host: member,
            document: Document::default(),
        }
    }

    fn seldom(
        &mut self,
        kind: Kind,
        mono_ns: u64,
        out: &mut Vec<u8>,
        fields: impl FnOnce(&mut Document),
    ) {
        self.document.begin("\"event\",\"type\":[\"info\"]", kind);
        fields(&mut self.document);
        self.document.end(&mut self.clock, mono_ns, &self.host, out);
    }
}

/// The groups of fields of one document, each without its braces, and each member with a comma before it.
#[derive(Debug, Default)]
struct Document {
    event: Vec<u8>,
    network: Vec<u8>,
    source: Vec<u8>,
    destination: Vec<u8>,
    process: Vec<u8>,
    user: Vec<u8>,
    container: Vec<u8>,
    error: Vec<u8>,
    /// What the schema has no field for
    own: Vec<u8>,
    changes: Changes,
    /// Whether the local end is the destination
    is_passive: bool,
    /// Whether it is known who opened the connection
    is_role_known: bool,
    bytes: Option<u64>,
    packets: Option<u64>,
}

fn push_named(out: &mut Vec<u8>, name: &str, number: u64) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    push_number(out, number);
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

impl Document {
    /// Begins with `event`: its kind, and what follows that.
    fn begin(&mut self, event: &str, kind: Kind) {
        for group in [
            &mut self.event,
            &mut self.network,
            &mut self.source,
            &mut self.destination,
            &mut self.process,
            &mut self.user,
            &mut self.container,
            &mut self.error,
            &mut self.own,
        ] {
            group.clear();
        }
        self.is_passive = false;
        self.is_role_known = false;
        self.bytes = None;
        self.packets = None;
        let group = &mut self.event;
        group.extend_from_slice(b",\"kind\":");
        group.extend_from_slice(event.as_bytes());
        group.extend_from_slice(b",\"action\":\"");
        group.extend_from_slice(kind.name().as_bytes());
        group.extend_from_slice(b"\",\"module\":\"tcptrace\",\"dataset\":\"tcptrace.records\"");
    }

    fn end(&mut self, clock: &mut Clock, mono_ns: u64, host: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"@timestamp\":\"");
        clock.push_rfc3339(mono_ns, out);
        out.extend_from_slice(b"\",\"ecs\":{\"version\":\"");
        out.extend_from_slice(VERSION.as_bytes());
        out.extend_from_slice(b"\"}");
        out.extend_from_slice(host);
        if let Some(bytes) = self.bytes {
            push_named(&mut self.network, "bytes", bytes);
        }
        if let Some(packets) = self.packets {
            push_named(&mut self.network, "packets", packets);
        }
        let (client, server): (&[u8], &[u8]) = if self.is_role_known {
            (&self.source, &self.destination)
        } else {
            (&[], &[])
        };
        for (name, group) in [
            ("event", self.event.as_slice()),
            ("network", &self.network),
            ("source", &self.source),
            ("destination", &self.destination),
            ("client", client),
            ("server", server),
            ("process", &self.process),
            ("user", &self.user),
            ("container", &self.container),
            ("error", &self.error),
        ] {
            push_group(name, group, out);
        }
        push_named(&mut self.own, "mono_us", mono_ns / 1000);
        push_group("tcptrace", &self.own, out);
        out.extend_from_slice(b"}\n");
    }

    /// The end of the connection that is here, or the other one.
    const fn side(&mut self, is_local: bool) -> &mut Vec<u8> {
        if is_local == self.is_passive {
            &mut self.destination
        } else {
            &mut self.source
        }
    }

    fn own(&mut self) -> Object<'_> {
        Object {
            out: &mut self.own,
            changes: &self.changes,
        }
    }
}

fn push_group(name: &str, members: &[u8], out: &mut Vec<u8>) {
    let Some((_comma, members)) = members.split_first() else {
        return;
    };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":{");
    out.extend_from_slice(members);
    out.push(b'}');
}

/// `event.kind`, `event.category` and `event.type` of a record about a connection.
fn classes(event: &Event) -> &'static str {
    match event {
        Event::Socket(_) | Event::Open(_) => {
            "\"state\",\"category\":[\"network\"],\"type\":[\"connection\",\"info\"]"
        }
        Event::Close(_) => "\"event\",\"category\":[\"network\"],\"type\":[\"connection\",\"end\"]",
        Event::Transition(step) if step.newstate().name() == "ESTABLISHED" => {
            "\"event\",\"category\":[\"network\"],\"type\":[\"connection\",\"start\"]"
        }
        _ => "\"event\",\"category\":[\"network\"],\"type\":[\"connection\",\"info\"]",
    }
}

impl Fields for Document {
    fn number(&mut self, field: Field, number: u64) {
        match field.name {
            "lport" => push_named(self.side(true), "port", number),
            "rport" => push_named(self.side(false), "port", number),
            "tx_bytes" | "rx_bytes" => {
                let side = self.side(field.name == "tx_bytes");
                push_named(side, "bytes", number);
                self.bytes = Some(self.bytes.unwrap_or(0).saturating_add(number));
            }
            "tx_segs" | "rx_segs" => {
                let side = self.side(field.name == "tx_segs");
                push_named(side, "packets", number);
                self.packets = Some(self.packets.unwrap_or(0).saturating_add(number));
            }
            "pid" => push_named(&mut self.process, "pid", number),
            "ppid" => {
                self.process.extend_from_slice(b",\"parent\":{\"pid\":");
                push_number(&mut self.process, number);
                self.process.push(b'}');
            }
            "uid" => {
                self.user.extend_from_slice(b",\"id\":\"");
                push_number(&mut self.user, number);
                self.user.push(b'"');
            }
            "duration_us" => {
                let ns = number.saturating_mul(1_000);
                push_named(&mut self.event, "duration", ns);
            }
            _ => self.own().number(field, number),
        }
    }

    fn large(&mut self, field: Field, number: u64) {
        self.own().large(field, number);
    }

    fn hex(&mut self, field: Field, number: u64) {
        self.own().hex(field, number);
    }

    fn text(&mut self, field: Field, text: &str) {
        match field.name {
            "role" => {
                self.is_passive = matches!(text, "server" | "listener");
                self.is_role_known = text != "unknown";
                let direction = match text {
                    "client" => Some("egress"),
                    "server" => Some("ingress"),
                    _ => None,
                };
                self.network.extend_from_slice(b",\"transport\":\"tcp\"");
                if let Some(direction) = direction {
                    self.network.extend_from_slice(b",\"direction\":");
                    push_text(&mut self.network, direction);
                }
                self.own().text(field, text);
            }
            "family" => {
                self.network.extend_from_slice(b",\"type\":");
                push_text(&mut self.network, text);
            }
            "reason" => {
                self.event.extend_from_slice(b",\"reason\":");
                push_text(&mut self.event, text);
            }
            "errno" => {
                self.error.extend_from_slice(b",\"code\":");
                push_text(&mut self.error, text);
            }
            _ => self.own().text(field, text),
        }
    }

    fn outside(&mut self, field: Field, bytes: &[u8]) {
        let (group, name): (_, &[u8]) = match field.name {
            "comm" => (&mut self.process, b",\"name\":"),
            "exe" => (&mut self.process, b",\"executable\":"),
            "args" => (&mut self.process, b",\"command_line\":"),
            "container" => (&mut self.container, b",\"id\":"),
            "reason" => (&mut self.event, b",\"reason\":"),
            _ => return self.own().outside(field, bytes),
        };
        group.extend_from_slice(name);
        push_outside(group, bytes);
    }

    fn address(&mut self, field: Field, address: IpAddr) {
        let side = self.side(field.name == "laddr");
        side.extend_from_slice(b",\"ip\":\"");
        push_address(side, address);
        side.push(b'"');
    }

    fn yes(&mut self, field: Field) {
        self.own().yes(field);
    }

    fn networks(&mut self, field: Field, networks: impl Iterator<Item = (Network, u32)>) {
        self.own().networks(field, networks);
    }

    fn states(&mut self, field: Field, states: impl Iterator<Item = (State, u64)>) {
        self.own().states(field, states);
    }

    fn words(&mut self, field: Field, words: impl Iterator<Item = &'static str>) {
        self.own().words(field, words);
    }

    fn table(&mut self, field: Field, table: &BTreeMap<&'static str, String>) {
        self.own().table(field, table);
    }
}

impl Sink for Ecs {
    fn start(&mut self, start: &Start, out: &mut Vec<u8>) {
        self.names.reset_reasons.clone_from(&start.reset_reasons);
        self.names.processes = start.processes.clone();
        self.seldom(Kind::Start, start.mono_ns, out, |to| {
            fields::start(start, to);
        });
    }

    fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        let Self {
            clock,
            names,
            host,
            document,
        } = self;
        let connection = event.connection();
        let mono_ns = connection.mono_ns();
        document.begin(classes(event), Kind::from(event));
        fields::about(connection, names, document);
        fields::details(event, names, document);
        if let Event::Close(close) = event {
            document.event.extend_from_slice(b",\"outcome\":");
            let outcome = match close.reason() {
                Reason::Normal => "success",
                reason if reason.is_failure() => "failure",
                _ => "unknown",
            };
            push_text(&mut document.event, outcome);
            if let Some(us) = close.duration_us() {
                let begin_ns = mono_ns.saturating_sub(us.saturating_mul(1_000));
                for (name, at_ns) in [(",\"start\":\"", begin_ns), (",\"end\":\"", mono_ns)] {
                    document.event.extend_from_slice(name.as_bytes());
                    clock.push_rfc3339(at_ns, &mut document.event);
                    document.event.push(b'"');
                }
            }
        }
        document.end(clock, mono_ns, host, out);
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
