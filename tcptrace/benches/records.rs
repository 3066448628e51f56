//! Ring bytes to values and to lines: the agent's own work on each record, without kernel and files.
//!
//! The records are those of `tests/fixtures/loopback.bin`. `all` goes through them in their order, as
//! the agent does; the others repeat the first record of their kind.

use divan::{Bencher, black_box, counter::ItemsCount};
use tcptrace::{
    event::Event,
    recording::Recording,
    sink::{
        Lines, Sink,
        json::Json,
        table::{Look, Table},
        time::{TimeColumn, TimeFormat},
    },
};

const FIXTURE: &[u8] = include_bytes!("../tests/fixtures/loopback.bin");

/// What the records are of.
const KINDS: [&str; 4] = ["all", "transition", "accept", "close"];

/// What a trace prints by default, and with `-s`.
const EVERY: Lines = Lines {
    transition: true,
    explain: false,
    path: false,
};
const SUMMARY: Lines = Lines {
    transition: false,
    ..EVERY
};

fn main() {
    divan::main();
}

fn records(kind: &str) -> Vec<&'static [u8]> {
    let recording = Recording::open(FIXTURE).expect("the fixture is of this version");
    if kind == "all" {
        return recording.collect();
    }
    let first = recording.clone().find(|record| kind_of(record) == kind);
    let first = first.expect("the fixture has one of each kind");
    // So many that the loop around them does not show.
    vec![first; recording.count()]
}

fn kind_of(record: &[u8]) -> &'static str {
    let mut kind = "";
    each(record, |event| {
        kind = match event {
            Event::Transition(_) => "transition",
            Event::Accept(_) => "accept",
            Event::Close(_) => "close",
            _ => "other",
        };
    });
    kind
}

fn each(record: &[u8], mut what: impl FnMut(&Event)) {
    Event::decode(record, |event| {
        what(event);
        true
    })
    .expect("the fixture is whole");
}

fn json(lines: Lines) -> Box<dyn Sink> {
    Box::new(Json::new(lines))
}

fn table(lines: Lines) -> Box<dyn Sink> {
    Box::new(Table::new(Look {
        time: TimeColumn::new(TimeFormat::parse("clock", true).expect("a format"), 0),
        lines,
        colored: false,
        wide: false,
        header: false,
    }))
}

#[divan::bench(args = KINDS)]
fn decode(bencher: Bencher<'_, '_>, kind: &str) {
    let records = records(kind);
    bencher.counter(ItemsCount::new(records.len())).bench(|| {
        for record in black_box(&records) {
            each(record, |event| {
                black_box(event);
            });
        }
    });
}

#[divan::bench(args = KINDS)]
fn as_json(bencher: Bencher<'_, '_>, kind: &str) {
    render(bencher, kind, json(EVERY));
}

#[divan::bench(args = KINDS)]
fn as_table(bencher: Bencher<'_, '_>, kind: &str) {
    render(bencher, kind, table(EVERY));
}

#[divan::bench(args = ["close"])]
fn as_summary(bencher: Bencher<'_, '_>, kind: &str) {
    render(bencher, kind, table(SUMMARY));
}

#[divan::bench(args = ["close"])]
fn as_json_summary(bencher: Bencher<'_, '_>, kind: &str) {
    render(bencher, kind, json(SUMMARY));
}

/// Decodes and prints, into one buffer, as `pipeline` does.
fn render(bencher: Bencher<'_, '_>, kind: &str, mut sink: Box<dyn Sink>) {
    let records = records(kind);
    let mut lines = Vec::with_capacity(1 << 20);
    bencher
        .counter(ItemsCount::new(records.len()))
        .bench_local(|| {
            lines.clear();
            for record in black_box(&records) {
                each(record, |event| {
                    sink.event(event, &mut lines);
                });
            }
            black_box(lines.len())
        });
}
