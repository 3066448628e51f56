//! The tracer's NDJSON, and what must hold for every line of it, whatever was traced.

mod promise;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::actor::Held;
pub use promise::each_end_has_its_close;

/// One line.
#[derive(Clone, Debug)]
pub struct Record {
    value: Value,
    pub line: String,
}

impl Record {
    pub fn parse(line: &str) -> Self {
        let value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("not JSON: {error}: {line:?}"));
        Self {
            value,
            line: line.to_owned(),
        }
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key)
    }

    pub fn fields(&self) -> &Map<String, Value> {
        self.value.as_object().unwrap()
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        let value = self.get(key)?;
        let text = value.as_str();
        assert!(text.is_some(), "{key} is not a string: {}", self.line);
        text
    }

    pub fn int(&self, key: &str) -> Option<u64> {
        let value = self.get(key)?;
        let int = value.as_u64();
        assert!(int.is_some(), "{key} is not a whole number: {}", self.line);
        int
    }

    fn need_text(&self, key: &str) -> &str {
        self.text(key)
            .unwrap_or_else(|| panic!("no {key}: {}", self.line))
    }

    fn need_int(&self, key: &str) -> u64 {
        self.int(key)
            .unwrap_or_else(|| panic!("no {key}: {}", self.line))
    }

    pub fn event(&self) -> &str {
        self.need_text("event")
    }

    pub fn mono_us(&self) -> u64 {
        self.need_int("mono_us")
    }

    pub fn conn(&self) -> &str {
        self.need_text("conn")
    }

    pub fn role(&self) -> &str {
        self.need_text("role")
    }

    pub fn source(&self) -> &str {
        self.need_text("pid_source")
    }

    pub fn is_about_a_connection(&self) -> bool {
        !matches!(self.event(), "start" | "lost" | "end")
    }

    pub fn is(&self, event: &str, new: &str) -> bool {
        self.event() == event && self.text("new") == Some(new)
    }

    /// With port 0 if it never had one.
    pub fn local(&self) -> SocketAddr {
        self.end("laddr", "lport")
    }

    /// Whether it is about this socket. The tests use no address twice.
    pub fn is_of(&self, held: &Held) -> bool {
        self.role() != "listener"
            && self.local() == held.local
            && self.remote() == Some(held.remote)
    }

    /// [`None`] for listeners.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.get("raddr").map(|_| self.end("raddr", "rport"))
    }

    fn end(&self, addr: &str, port: &str) -> SocketAddr {
        let ip: IpAddr = self
            .need_text(addr)
            .parse()
            .unwrap_or_else(|error| panic!("{addr}: {error}: {}", self.line));
        let port = self.int(port).unwrap_or(0);
        SocketAddr::new(ip, u16::try_from(port).unwrap())
    }
}

/// All lines of a run.
pub struct Records {
    pub all: Vec<Record>,
}

impl Records {
    pub fn parse(text: &str) -> Self {
        Self {
            all: text.lines().map(Record::parse).collect(),
        }
    }

    pub fn of(&self, event: &str) -> impl Iterator<Item = &Record> {
        self.all
            .iter()
            .filter(move |record| record.event() == event)
    }

    pub fn start(&self) -> &Record {
        &self.all[0]
    }

    pub fn end(&self) -> &Record {
        self.all.last().unwrap()
    }

    pub fn lost(&self) -> u64 {
        self.end().need_int("lost")
    }

    /// The end, and each record of a loss before it.
    pub fn losses(&self) -> String {
        let losses = self.of("lost").chain([self.end()]);
        losses
            .map(|record| record.line.as_str())
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The records about connections in a network namespace.
    pub fn within(&self, netns: u64) -> Vec<&Record> {
        self.all
            .iter()
            .filter(|record| record.is_about_a_connection() && record.need_int("netns") == netns)
            .collect()
    }
}

pub fn lines(records: &[&Record]) -> String {
    let lines: Vec<_> = records.iter().map(|record| record.line.as_str()).collect();
    lines.join("\n")
}
