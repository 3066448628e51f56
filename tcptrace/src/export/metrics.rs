//! What has happened, counted: the registry behind `/metrics` and the metrics of OTLP.
//!
//! Pure. A label is never a peer's port, an address or a process id; the names of processes and the ports
//! of listeners are so many at most, and the rest is `other`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tcptrace_common::tcp;

use crate::{
    event::{Close, Connection, Event, LossCause, Reason, Role, State},
    sink::{Lost, text},
};

/// Bounds of the histograms of waiting, seconds.
const WAIT_BOUNDS_S: [f64; 14] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Bounds of how long connections last, seconds.
const DURATION_BOUNDS_S: [f64; 10] = [
    0.001, 0.01, 0.1, 0.5, 1.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0,
];

/// What a label is where there would be too many.
const OTHER: &str = "other";

/// Counts events.
#[derive(Clone, Debug)]
pub struct Metrics {
    processes: Names,
    connections: HashMap<(Role, Reason, Option<Arc<str>>), u64>,
    /// None where it is not known: not every change is heard of
    open: Option<HashMap<(Role, State), i64>>,
    transitions: HashMap<State, u64>,
    /// Whether the changes of a connection are told of at its end alone
    is_summary: bool,
    connect: Histogram,
    accept_wait: Histogram,
    duration: Histogram,
    retransmits: u64,
    tx_bytes: u64,
    rx_bytes: u64,
    drops: HashMap<(Option<Arc<str>>, Option<u16>), u64>,
    max_values: usize,
    lost: BTreeMap<&'static str, u64>,
    dropped: BTreeMap<&'static str, u64>,
}

/// What is heard of.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// Transitions
    pub transitions: bool,
    /// Connections open at start, so that every open one is known
    pub sockets: bool,
    /// How many values a label has at most
    pub max_label_values: usize,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new(heard: Heard) -> Self {
        Self {
            processes: Names::new(heard.max_label_values),
            connections: HashMap::new(),
            open: (heard.transitions && heard.sockets).then(HashMap::new),
            transitions: HashMap::new(),
            is_summary: !heard.transitions,
            connect: Histogram::new(&WAIT_BOUNDS_S),
            accept_wait: Histogram::new(&WAIT_BOUNDS_S),
            duration: Histogram::new(&DURATION_BOUNDS_S),
            retransmits: 0,
            tx_bytes: 0,
            rx_bytes: 0,
            drops: HashMap::new(),
            max_values: heard.max_label_values,
            lost: BTreeMap::new(),
            dropped: BTreeMap::new(),
        }
    }

    /// Counts an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Socket(socket) => self.opened(socket.connection(), socket.state()),
            Event::Transition(step) => {
                let connection = step.connection();
                *self.transitions.entry(step.newstate()).or_default() += 1;
                let (old, new) = (step.oldstate(), step.newstate());
                // A child begins in the state of its listener.
                let begins = connection.is_first()
                    || (connection.role() == Role::Server && old.0 == tcp::LISTEN);
                if !begins && old.0 != tcp::CLOSE {
                    self.left(connection, old);
                }
                if new.0 != tcp::CLOSE {
                    self.opened(connection, new);
                }
            }
            Event::Listener(listener) => {
                let dropped = u64::from(listener.dropped().unwrap_or(0));
                if dropped > 0 {
                    self.dropped_at(listener.connection(), dropped);
                }
            }
            Event::Close(close) => self.close(close),
            Event::Accept(_)
            | Event::Retransmit(_)
            | Event::Reset(_)
            | Event::Slow(_)
            | Event::Open(_)
            | Event::Owner(_) => {}
        }
    }

    /// Counts a loss. How many connections are open is not known any more then.
    pub fn lost(&mut self, lost: &Lost) {
        let number = lost.count + lost.time_waits;
        *self.lost.entry(lost.cause.name()).or_default() += number;
        // What another output had no room for was heard of here.
        if lost.cause != LossCause::SinkFull {
            self.open = None;
        }
    }

    /// Counts what an export could not deliver.
    pub fn dropped(&mut self, export: &'static str, number: u64) {
        *self.dropped.entry(export).or_default() += number;
    }

    fn opened(&mut self, connection: &Connection, state: State) {
        if let Some(open) = &mut self.open {
            *open.entry((connection.role(), state)).or_default() += 1;
        }
    }

    fn left(&mut self, connection: &Connection, state: State) {
        if let Some(open) = &mut self.open {
            *open.entry((connection.role(), state)).or_default() -= 1;
        }
    }

    fn process(&mut self, connection: &Connection) -> Option<Arc<str>> {
        let comm = connection.comm();
        (!comm.is_empty()).then(|| self.processes.of(comm))
    }

    fn close(&mut self, close: &Close) {
        let connection = close.connection();
        let process = self.process(connection);
        let key = (connection.role(), close.reason(), process);
        *self.connections.entry(key).or_default() += 1;
        if self.is_summary {
            for state in close.entered() {
                *self.transitions.entry(state).or_default() += 1;
            }
        }
        if connection.role() == Role::Listener {
            return;
        }
        if let Some(us) = close.connect_us().filter(|_| close.was_established()) {
            self.connect.observe_us(us);
        }
        if let Some(us) = close.accept_wait_us() {
            self.accept_wait.observe_us(us);
        }
        if let Some(us) = close.duration_us() {
            self.duration.observe_us(us);
        }
        if let Some(counters) = close.counters() {
            self.retransmits += u64::from(counters.retransmits);
            self.tx_bytes = self.tx_bytes.wrapping_add(counters.tx_bytes);
            self.rx_bytes = self.rx_bytes.wrapping_add(close.rx_bytes().unwrap_or(0));
        }
    }

    fn dropped_at(&mut self, listener: &Connection, number: u64) {
        let process = self.process(listener);
        let mut key = (process, listener.lport());
        if !self.drops.contains_key(&key) && self.drops.len() >= self.max_values {
            key.1 = None;
        }
        *self.drops.entry(key).or_default() += number;
    }

    /// All of it, in a fixed order.
    pub fn families(&self) -> Vec<Family> {
        let histogram = |name, help, histogram: &Histogram| Family {
            points: vec![(Labels::new(), Value::Histogram(histogram.clone()))],
            ..Family::new(name, Some(("_seconds", "s")), Kind::Histogram, help)
        };
        vec![
            Family {
                points: vec![(
                    vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
                    Value::Number(1),
                )],
                ..Family::new("tcptrace.build", None, Kind::Info, "This program.")
            },
            self.connections_family(),
            self.open_family(),
            Family::counter(
                "tcptrace.transitions",
                "State changes, by the state that was entered.",
                self.transitions
                    .iter()
                    .map(|(state, number)| (vec![("state", state.name().to_owned())], *number)),
            ),
            histogram(
                "tcptrace.connect",
                "From a client's SYN until it was established.",
                &self.connect,
            ),
            histogram(
                "tcptrace.accept_wait",
                "Time in the accept queue.",
                &self.accept_wait,
            ),
            histogram(
                "tcptrace.connection_duration",
                "From a connection's first state change to its end.",
                &self.duration,
            ),
            Family::counter(
                "tcptrace.retransmits",
                "Segments sent again, of connections that have ended.",
                [(Labels::new(), self.retransmits)],
            ),
            Family {
                unit: Some(("_bytes", "By")),
                ..Family::counter(
                    "tcptrace.bytes",
                    "Payload of connections that have ended.",
                    [("sent", self.tx_bytes), ("received", self.rx_bytes)].map(
                        |(direction, bytes)| (vec![("direction", direction.to_owned())], bytes),
                    ),
                )
            },
            self.drops_family(),
            Family::counter(
                "tcptrace.lost",
                "Records that did not reach us, by cause.",
                self.lost
                    .iter()
                    .map(|(cause, number)| (vec![("cause", (*cause).to_owned())], *number)),
            ),
            Family::counter(
                "tcptrace.export_dropped",
                "Records that an export did not deliver.",
                self.dropped
                    .iter()
                    .map(|(export, number)| (vec![("export", (*export).to_owned())], *number)),
            ),
        ]
    }

    fn connections_family(&self) -> Family {
        Family::counter(
            "tcptrace.connections",
            "Connections that have ended.",
            self.connections
                .iter()
                .map(|((role, reason, process), number)| {
                    let mut labels = vec![
                        ("role", role.name().to_owned()),
                        ("reason", reason.name().to_owned()),
                    ];
                    labels.extend(process.iter().map(|name| ("process", name.to_string())));
                    (labels, *number)
                }),
        )
    }

    fn open_family(&self) -> Family {
        let mut points: Vec<_> = self
            .open
            .iter()
            .flatten()
            .map(|((role, state), number)| {
                let labels = vec![
                    ("role", role.name().to_owned()),
                    ("state", state.name().to_owned()),
                ];
                (labels, Value::Level(*number))
            })
            .collect();
        points.sort_by(|a, b| a.0.cmp(&b.0));
        Family {
            points,
            ..Family::new(
                "tcptrace.connections_open",
                None,
                Kind::Gauge,
                "Open connections. Not given once records were lost.",
            )
        }
    }

    fn drops_family(&self) -> Family {
        Family::counter(
            "tcptrace.listener_drops",
            "Requests and connections dropped for want of room.",
            self.drops.iter().map(|((process, lport), number)| {
                let mut labels = Labels::new();
                labels.extend(process.iter().map(|name| ("process", name.to_string())));
                let lport = lport.map_or_else(|| OTHER.to_owned(), |port| port.to_string());
                labels.push(("lport", lport));
                (labels, *number)
            }),
        )
    }
}

/// The first names that come, up to a number; the rest is `other`.
#[derive(Clone, Debug)]
struct Names {
    known: HashMap<Box<[u8]>, Arc<str>>,
    other: Arc<str>,
    max: usize,
}

impl Names {
    fn new(max: usize) -> Self {
        Self {
            known: HashMap::new(),
            other: OTHER.into(),
            max,
        }
    }

    fn of(&mut self, bytes: &[u8]) -> Arc<str> {
        if let Some(name) = self.known.get(bytes) {
            return Arc::clone(name);
        }
        if self.known.len() >= self.max {
            return Arc::clone(&self.other);
        }
        let name: Arc<str> = text::escape(bytes).into();
        self.known.insert(bytes.into(), Arc::clone(&name));
        name
    }
}

/// Numbers by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// Upper bounds, each included
    pub bounds: &'static [f64],
    /// How many in each bucket, and above the last bound
    pub counts: Vec<u64>,
    /// Sum of all, µs
    sum_us: u64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum_us: 0,
        }
    }

    fn observe_us(&mut self, us: u64) {
        let s = seconds(us);
        let bucket = self.bounds.partition_point(|bound| *bound < s);
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum, seconds.
    pub fn sum_s(&self) -> f64 {
        seconds(self.sum_us)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53 µs, which are 285 years"
)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Labels and their values.
pub type Labels = Vec<(&'static str, String)>;

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Always 1; the labels say it
    Info,
    /// Only grows
    Counter,
    /// Grows and shrinks
    Gauge,
    /// A distribution
    Histogram,
}

/// A number.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter or an info
    Number(u64),
    /// Of a gauge
    Level(i64),
    /// Of a histogram
    Histogram(Histogram),
}

/// One metric, with all its labels.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its name, with dots, without unit and `_total`
    pub name: &'static str,
    /// What Prometheus appends for the unit, and the unit as UCUM writes it
    pub unit: Option<(&'static str, &'static str)>,
    /// What its numbers are
    pub kind: Kind,
    /// What it is, in a sentence
    pub help: &'static str,
    /// The numbers
    pub points: Vec<(Labels, Value)>,
}

impl Family {
    const fn new(
        name: &'static str,
        unit: Option<(&'static str, &'static str)>,
        kind: Kind,
        help: &'static str,
    ) -> Self {
        Self {
            name,
            unit,
            kind,
            help,
            points: Vec::new(),
        }
    }

    fn counter(
        name: &'static str,
        help: &'static str,
        points: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let mut points: Vec<_> = points
            .into_iter()
            .map(|(labels, number)| (labels, Value::Number(number)))
            .collect();
        points.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            points,
            ..Self::new(name, None, Kind::Counter, help)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_names_are_other() {
        let mut names = Names::new(2);
        assert_eq!(&*names.of(b"a"), "a");
        assert_eq!(&*names.of(b"b\n"), "b\\n");
        assert_eq!(&*names.of(b"c"), "other");
        assert_eq!(&*names.of(b"a"), "a");
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::new(&WAIT_BOUNDS_S);
        for us in [500, 501, 1_000, 20_000_000] {
            histogram.observe_us(us);
        }
        assert_eq!(histogram.counts[..3], [1, 2, 0]);
        assert_eq!(histogram.counts[WAIT_BOUNDS_S.len()], 1);
        assert_eq!(histogram.count(), 4);
        assert!((histogram.sum_s() - 20.002_001).abs() < 1e-9);
    }
}
