//! Ring bytes through the decoder and every sink: whatever comes, lines are whole and harmless.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use tcptrace::{
    event::{Event, LossCause},
    recording::Recording,
    sink::{
        End, Lines, Lost, Sink, Start,
        json::Json,
        table::{Look, Table},
        text,
        time::{TimeColumn, TimeFormat},
    },
};
use tcptrace_common::record::ABI_VERSION;

const HEAD: &[u8] = b"tcptrace";

/// Bytes: those of a recording behind its version, that is the clock, then each record behind its
/// length.
pub(crate) fn target(bytes: &[u8]) {
    let mut recording = HEAD.to_vec();
    recording.extend_from_slice(&ABI_VERSION.to_ne_bytes());
    recording.extend_from_slice(bytes);
    let Some(recording) = Recording::open(&recording) else {
        return;
    };
    for explain in [false, true] {
        let every = Lines {
            transition: true,
            explain,
            path: false,
        };
        check_json(&render(&mut Json::new(every), &recording));
        let plain = render(&mut table(every, false, explain), &recording);
        check_table(&plain);
        let colored = render(&mut table(every, true, explain), &recording);
        // The blanks at a row's end are taken off, but not inside a color.
        let stripped = without_colors(&colored);
        let same = stripped.lines().map(str::trim_end).eq(plain.lines());
        assert!(same, "colors change the text:\n{stripped}\n{plain}");
    }
    let summary = Lines {
        transition: false,
        explain: false,
        path: false,
    };
    check_json(&render(&mut Json::new(summary), &recording));
    check_table(&render(&mut table(summary, false, false), &recording));
}

fn table(lines: Lines, colored: bool, wide: bool) -> Table {
    let time = TimeFormat::parse(if wide { "date" } else { "elapsed" }, true).expect("a format");
    Table::new(Look {
        time: TimeColumn::new(time, 0),
        lines,
        colored,
        wide,
        header: true,
    })
}

/// Everything a trace of these records prints.
fn render(sink: &mut dyn Sink, recording: &Recording<'_>) -> String {
    let mut out = Vec::new();
    sink.set_clock(recording.wall_minus_mono_ns);
    let hostile = "SK_RST_REASON_\u{1b}[2J\"\n\u{202e}";
    let start = Start {
        mono_ns: 0,
        kernel: hostile.to_owned(),
        hooks: [("accept", hostile.to_owned())].into(),
        reset_reasons: (0..4).map(|reason| (reason, hostile.to_owned())).collect(),
        filters: [("slower_than", hostile.to_owned())].into(),
        processes: tcptrace::identity::process::Processes::default(),
    };
    sink.start(&start, &mut out);
    let mut mono_ns = 0;
    for record in recording.clone() {
        let decoded = Event::decode(record, |event| {
            mono_ns = event.connection().mono_ns();
            let begin = out.len();
            sink.event(event, &mut out);
            let lines = out[begin..].split(|byte| *byte == b'\n').count() - 1;
            assert_eq!(lines, 1, "not one line: {event:?}");
            assert!(out.ends_with(b"\n"), "a line is not whole: {event:?}");
            true
        });
        if decoded.is_err() {
            // Told as a loss, with the record's own numbers for counts. These are the kernel's, who
            // counts up from 0: no sum of them overflows.
            let number = |at| {
                record
                    .get(at..)
                    .and_then(|rest| rest.first_chunk())
                    .map_or(0, |chunk| u64::from_ne_bytes(*chunk) >> 8)
            };
            let lost = Lost {
                mono_ns,
                cause: LossCause::RingFull,
                count: number(0),
                accepts: number(8),
                closes: number(16),
                time_waits: number(24),
                others: number(32),
            };
            sink.lost(&lost, &mut out);
        }
    }
    let end = End {
        mono_ns,
        ..End::default()
    };
    sink.end(&end, &mut out);
    String::from_utf8(out).expect("output is UTF-8")
}

fn check_json(text: &str) {
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        check_harmless(line);
        let Object = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        let value: serde_json::Value = serde_json::from_str(line).expect("parsed before");
        let object = value.as_object().expect("parsed before");
        for (key, value) in object {
            assert!(!value.is_null() && value != "", "{key} is empty: {line}");
        }
        for key in ["v", "event", "ts", "mono_us"] {
            assert!(object.contains_key(key), "no {key}: {line}");
        }
    }
}

fn check_table(text: &str) {
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        check_harmless(line);
        assert!(!line.is_empty() && !line.ends_with(' '), "{line:?}");
    }
}

fn check_harmless(line: &str) {
    let bad = line.chars().find(|c| c.is_control() || text::is_unsafe(*c));
    assert_eq!(bad, None, "{line:?}");
}

/// Takes SGR sequences, `ESC [ digits ; … m`, out of a text. Any other escape stays.
fn without_colors(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = after.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = end
            .strip_prefix('m')
            .unwrap_or_else(|| panic!("an escape: {after:?}"));
    }
    plain.push_str(rest);
    plain
}

/// A JSON object in which no key comes twice, at any depth that we print.
struct Object;

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "states" {
                        let Object = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                    if let Some(key) = seen.replace(key) {
                        return Err(M::Error::custom(format_args!("{key} comes twice")));
                    }
                }
                Ok(Object)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
