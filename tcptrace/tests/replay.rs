//! Recorded ring bytes through the whole of the agent's pure part, to text and JSON.
//!
//! `fixtures/*.bin` were written by `tcptrace --record-ring` on a real kernel; see
//! `fixtures/README.md`. After a change that is meant to alter the output, run with
//! `INSTA_UPDATE=always` and read the difference.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, and says where"
)]

use proptest::prelude::*;
use tcptrace::{
    event::{Event, LossCause},
    recording::Recording,
    sink::{
        End, Lines, Lost, Sink, Start,
        json::Json,
        table::{Look, Table},
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
fn colours_change_nothing_but_colours() {
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
            true
        });
    }
}
