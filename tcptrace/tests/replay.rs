//! Recorded ring bytes through the whole of the agent's pure part, to text and JSON.
//!
//! `fixtures/*.bin` were written by `tcptrace --record-ring` on a real kernel; see
//! `fixtures/README.md`. After a change that is meant to alter the output, run with
//! `INSTA_UPDATE=always` and read the difference.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, and says where"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tcptrace::{
    event::{Event, LossCause},
    recording::Recording,
    sink::{
        End, Lines, Lost, Sink, Start,
        csv::{COLUMNS, Csv},
        ecs::Ecs,
        json::Json,
        table::{Look, Table},
        text::escape,
        time::{TimeColumn, TimeFormat},
    },
};
use tcptrace_common::record::Record;
use zerocopy::FromBytes as _;

const BOTH: Lines = Lines {
    transition: true,
    explain: false,
    path: false,
};

fn table(colored: bool, wide: bool) -> Table {
    Table::new(Look {
        time: TimeColumn::new(TimeFormat::parse("clock", true).unwrap(), 0),
        lines: BOTH,
        colored,
        wide,
        header: true,
    })
}

fn render(sink: &mut dyn Sink, recording: &Recording<'_>) -> String {
    render_those(sink, recording, |_| true)
}

fn render_those(
    sink: &mut dyn Sink,
    recording: &Recording<'_>,
    wanted: impl Fn(&Event) -> bool,
) -> String {
    let mut out = Vec::new();
    sink.set_clock(recording.wall_minus_mono_ns);
    let begin_ns = recording
        .clone()
        .map(|record| events(record)[0].connection().mono_ns())
        .next()
        .unwrap();
    let start = Start {
        mono_ns: begin_ns,
        kernel: "6.18".to_owned(),
        hooks: [("accept", "fentry/__inet_accept".to_owned())].into(),
        reset_reasons: [(3, "SK_RST_REASON_NO_SOCKET".to_owned())].into(),
        filters: [("pid", "1,2".to_owned())].into(),
        processes: tcptrace::identity::process::Processes::default(),
    };
    sink.start(&start, &mut out);
    let mut end = End {
        mono_ns: begin_ns,
        ..End::default()
    };
    for record in recording.clone() {
        for event in events(record).into_iter().filter(&wanted) {
            end.mono_ns = event.connection().mono_ns();
            sink.event(&event, &mut out);
            end.transitions += 1;
        }
    }
    let lost = Lost {
        mono_ns: end.mono_ns,
        cause: LossCause::RingFull,
        count: 12_345,
        accepts: 1,
        closes: 2,
        time_waits: 4,
        others: 3,
    };
    sink.lost(&lost, &mut out);
    sink.end(&end, &mut out);
    String::from_utf8(out).unwrap()
}

fn events(record: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    Event::decode(record, |event| {
        events.push(*event);
        true
    })
    .unwrap();
    events
}

fn fixture() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/loopback.bin");
    std::fs::read(path).unwrap()
}

#[test]
fn a_recording_as_a_table() {
    let bytes = fixture();
    insta::assert_snapshot!(render(
        &mut table(false, false),
        &Recording::open(&bytes).unwrap()
    ));
}

#[test]
fn a_recording_as_a_wide_table() {
    let bytes = fixture();
    insta::assert_snapshot!(render(
        &mut table(false, true),
        &Recording::open(&bytes).unwrap()
    ));
}

/// The table on a terminal of so many columns.
fn on_a_terminal(columns: usize, lines: Lines) -> String {
    let bytes = fixture();
    let mut table = Table::new(Look {
        time: TimeColumn::new(TimeFormat::parse("clock", true).unwrap(), 0),
        lines,
        colored: false,
        wide: false,
        header: true,
    });
    table.set_width(Some(columns), &mut Vec::new());
    render_those(&mut table, &Recording::open(&bytes).unwrap(), |event| {
        lines.transition || matches!(event, Event::Close(_))
    })
}

#[test]
fn no_row_is_wider_than_the_terminal() {
    let compact = Lines {
        transition: false,
        path: true,
        ..BOTH
    };
    let explained = Lines {
        explain: true,
        ..BOTH
    };
    for columns in 60..260 {
        for lines in [BOTH, compact, explained] {
            for row in on_a_terminal(columns, lines).lines() {
                let width = unicode_width::UnicodeWidthStr::width(row);
                assert!(width <= columns, "{width} of {columns}: {row}");
            }
        }
    }
}

#[test]
fn a_recording_on_terminals() {
    for columns in [60, 80, 120] {
        insta::assert_snapshot!(format!("terminal_{columns}"), on_a_terminal(columns, BOTH));
    }
}

#[test]
fn a_recording_in_lines_that_grow() {
    let compact = Lines {
        transition: false,
        path: true,
        ..BOTH
    };
    for columns in [80, 160] {
        insta::assert_snapshot!(
            format!("compact_{columns}"),
            on_a_terminal(columns, compact)
        );
    }
}

#[test]
fn a_recording_as_json() {
    let bytes = fixture();
    let text = render(&mut Json::new(BOTH), &Recording::open(&bytes).unwrap());
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(no_empty_value(&value), "{line}");
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_recording_as_csv() {
    let bytes = fixture();
    let text = render(
        &mut Csv::new(false, true),
        &Recording::open(&bytes).unwrap(),
    );
    let json = render(&mut Json::new(BOTH), &Recording::open(&bytes).unwrap());
    let mut rows = text.split_terminator("\r\n").map(csv_row);
    assert_eq!(rows.next().unwrap(), COLUMNS);
    let records: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.clone().count(), records.len());
    for (row, record) in rows.zip(records) {
        let cells: BTreeMap<_, _> = COLUMNS
            .into_iter()
            .zip(row.iter().map(|cell| sorted(cell)))
            .filter(|(_, cell)| !cell.is_empty())
            .collect();
        let members: BTreeMap<_, _> = record
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), sorted(&flat(value))))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        assert_eq!(cells, members);
    }
    insta::assert_snapshot!(text);
}

/// A JSON value as a cell shows it.
fn flat(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::String(text) => escape(text.as_bytes()),
        Value::Array(words) => words.iter().map(flat).collect::<Vec<_>>().join(";"),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}={}", flat(value)))
            .collect::<Vec<_>>()
            .join(";"),
        value => value.to_string(),
    }
}

/// Its parts in alphabetical order: the library that reads JSON does not keep theirs.
fn sorted(cell: &str) -> String {
    let mut parts: Vec<_> = cell.split(';').collect();
    parts.sort_unstable();
    parts.join(";")
}

/// The cells of a row.
fn csv_row(row: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut rest = row.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '"' if quoted && rest.peek() == Some(&'"') => {
                rest.next();
                cells.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "{row}");
    cells
}

/// Every field is one of the schema's, of its type, or under `tcptrace`.
#[test]
fn a_recording_under_ecs_names() {
    let bytes = fixture();
    let text = render(
        &mut Ecs::new(false, "host.example"),
        &Recording::open(&bytes).unwrap(),
    );
    let known: BTreeMap<_, _> = include_str!("fixtures/ecs-9.4.0.csv")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, rest) = line.split_once(',').unwrap();
            (name, rest.split_once(',').unwrap())
        })
        .collect();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let mut fields = Vec::new();
        leaves(&value, "", &mut fields);
        for (name, value) in fields {
            if name.starts_with("tcptrace.") {
                assert_ne!(value, "", "{name} in {line}");
                continue;
            }
            let (kind, normalization) = known[name.as_str()];
            assert_eq!(value.is_array(), normalization == "array", "{name}");
            assert_eq!(value.is_u64(), kind == "long", "{name} in {line}");
            assert!(value != "" && !value.is_null(), "{name} in {line}");
        }
    }
    insta::assert_snapshot!(text);
}

fn leaves(value: &serde_json::Value, path: &str, fields: &mut Vec<(String, serde_json::Value)>) {
    let Some(members) = value.as_object() else {
        fields.push((path.to_owned(), value.clone()));
        return;
    };
    for (name, value) in members {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        leaves(value, &path, fields);
    }
}

/// What the JSON Schema, the CSV header and the tables of the documentation name is the same.
#[test]
fn every_field_is_documented() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/events.schema.json")).unwrap();
    let mut named = BTreeSet::new();
    let definitions = schema["$defs"].as_object().unwrap().values();
    for properties in definitions
        .chain([&schema])
        .filter_map(|definition| definition["properties"].as_object())
    {
        named.extend(properties.keys().map(String::as_str));
    }
    assert_eq!(named, COLUMNS.into_iter().collect(), "schema and columns");

    let text = include_str!("../../docs/events.md");
    let documented: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next())
        .flat_map(|cell| cell.split('`'))
        .filter(|word| named.contains(word))
        .collect();
    assert_eq!(named, documented, "schema and docs/events.md");
}

#[test]
fn columns_are_wide_as_long_as_it_takes() {
    let bytes = fixture();
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for record in Recording::open(&bytes).unwrap() {
        if events(record)[0].connection().laddr().is_ipv6() {
            let mut record = record.to_vec();
            Record::mut_from_prefix(&mut record).unwrap().0.laddr = [u64::MAX; 2];
            wide.extend(events(&record));
        } else {
            narrow.extend(events(record));
        }
    }
    let mut table = table(false, false);
    let mut row = |event: &Event| {
        let mut out = Vec::new();
        table.event(event, &mut out);
        String::from_utf8(out).unwrap()
    };
    let alone = row(&narrow[0]);
    row(&wide[0]);
    assert!(row(&narrow[0]).len() > alone.len());
    let rows = narrow.iter().cycle().take(1000);
    rows.for_each(|event| drop(row(event)));
    assert_eq!(row(&narrow[0]), alone);
}

#[test]
fn long_ids_do_not_push_rows_out_of_line() {
    let bytes = fixture();
    let first = Recording::open(&bytes).unwrap().next().unwrap();
    let with_id = |id: u64| {
        let mut record = first.to_vec();
        Record::mut_from_prefix(&mut record).unwrap().0.conn = id;
        events(&record)[0]
    };
    let mut table = table(false, false);
    let mut column_of_address = |event: &Event| {
        let mut out = Vec::new();
        table.event(event, &mut out);
        String::from_utf8(out).unwrap().find("127.0.0.1").unwrap()
    };
    let [short, long] = [0xab, 0x1234_5678].map(with_id);
    let before = column_of_address(&short);
    assert_eq!(column_of_address(&long), before + 2);
    assert_eq!(column_of_address(&short), before + 2);
}

#[test]
fn colors_change_nothing_but_colors() {
    let bytes = fixture();
    let recording = Recording::open(&bytes).unwrap();
    let colored = render(&mut table(true, false), &recording);
    let plain = anstream_free(&colored);
    assert_eq!(plain, render(&mut table(false, false), &recording));
    assert!(colored.contains('\u{1b}'));
}

/// Takes SGR sequences, `ESC [ … m`, out of a text.
fn anstream_free(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    plain
}

fn no_empty_value(value: &serde_json::Value) -> bool {
    value
        .as_object()
        .unwrap()
        .values()
        .all(|value| !value.is_null() && value != "")
}

#[test]
fn a_recording_of_another_version_is_refused() {
    let mut bytes = fixture();
    bytes[8] ^= 0xff;
    assert!(Recording::open(&bytes).is_none());
    assert!(Recording::open(&bytes[..7]).is_none());
}

proptest! {
    /// Whatever bytes come, nothing panics, each record is whole lines of valid JSON, and the
    /// table never holds a control character but the line feed.
    #[test]
    fn any_bytes_are_a_record_or_an_error(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        kind in 0..10_u8,
        wall_minus_mono_ns in any::<i64>(),
    ) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.get_mut(100) {
            *byte = kind;
        }
        // Malformed bytes are an error, which the agent counts.
        let _decoded = Event::decode(&bytes, |event| {
            let mut json = Json::new(BOTH);
            json.set_clock(wall_minus_mono_ns);
            let mut out = Vec::new();
            json.event(event, &mut out);
            let text = String::from_utf8(out).unwrap();
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains('\n'), "{line}");
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(no_empty_value(&value));
            let mut plain = table(false, true);
            plain.set_clock(wall_minus_mono_ns);
            let mut out = Vec::new();
            plain.event(event, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            let mut csv = Csv::new(false, false);
            let mut out = Vec::new();
            csv.event(event, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.lines().count(), 1);
            for row in text.split_terminator("\r\n") {
                assert_eq!(csv_row(row).len(), COLUMNS.len());
                assert!(!row.contains(char::is_control));
            }
            let mut out = Vec::new();
            Ecs::new(false, "host").event(event, &mut out);
            for line in String::from_utf8(out).unwrap().lines() {
                let _object: serde_json::Value = serde_json::from_str(line).unwrap();
            }
            true
        });
    }
}
