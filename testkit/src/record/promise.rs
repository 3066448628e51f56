//! What docs/events.md promises of every run.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use serde_json::Value;

use super::{Record, Records, lines};
use crate::confinement;

/// How many records of a trace with the same fields are held against the schema.
const SCHEMA_CHECKS: u32 = 3;

/// What users are told of the format.
static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = include_str!("../../../docs/events.schema.json");
    jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap()
});

impl Record {
    /// What holds for this line alone.
    fn keeps_its_promises(&self) {
        let line = &self.line;
        no_blanks(&self.value, line);
        assert_eq!(self.int("v"), Some(1), "{line}");
        assert!(
            is_timestamp(self.need_text("ts")),
            "ts is not RFC 3339 UTC with ns: {line}"
        );
        assert!(self.mono_us() > 0, "{line}");
        if !self.is_about_a_connection() {
            return;
        }

        let conn = self.conn();
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        assert!(
            conn.bytes().all(hex) && !conn.starts_with('0'),
            "conn is not hexadecimal: {line}"
        );
        let local = self.local();
        assert_ne!(self.int("lport"), Some(0), "{line}");
        let listener = self.role() == "listener";
        match self.remote() {
            // A request that is answered once more has one.
            Some(_) if listener && self.event() != "retransmit" => {
                panic!("a listener has no remote end: {line}")
            }
            None if !listener => panic!("no remote end: {line}"),
            Some(remote) => {
                assert_ne!(remote.port(), 0, "{line}");
                assert!(!remote.ip().is_unspecified(), "{line}");
                assert!(!local.ip().is_unspecified(), "{line}");
            }
            None => {}
        }
        let roles = ["client", "server", "listener", "unknown"];
        assert!(roles.contains(&self.role()), "{line}");
        let family = self.need_text("family");
        assert_eq!(
            family,
            if local.is_ipv4() { "ipv4" } else { "ipv6" },
            "{line}"
        );
        let mapped = self.get("mapped");
        assert!(
            mapped.is_none() || (family == "ipv4" && mapped == Some(&Value::Bool(true))),
            "{line}"
        );

        let sources = [
            "connect", "accept", "listener", "listen", "snapshot", "handover", "unknown",
        ];
        assert!(sources.contains(&self.source()), "{line}");
        let unknown = self.source() == "unknown";
        assert_eq!(
            self.int("pid").is_none(),
            unknown,
            "pid and pid_source disagree: {line}"
        );
        assert_ne!(self.int("pid"), Some(0), "{line}");
    }
}

/// What is not known is left out: no null and no empty text anywhere.
fn no_blanks(value: &Value, line: &str) {
    match value {
        Value::Null => panic!("null: {line}"),
        Value::String(text) => assert!(!text.is_empty(), "empty text: {line}"),
        Value::Array(values) => values.iter().for_each(|value| no_blanks(value, line)),
        Value::Object(fields) => fields.values().for_each(|value| no_blanks(value, line)),
        Value::Bool(_) | Value::Number(_) => {}
    }
}

/// `2026-11-22T11:45:21.123456789Z`
fn is_timestamp(text: &str) -> bool {
    let form = "0000-00-00T00:00:00.000000000Z";
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| {
            if form == b'0' {
                byte.is_ascii_digit()
            } else {
                byte == form
            }
        })
}

impl Records {
    /// An emulated machine takes a second for it.
    fn fit_the_schema(&self) {
        let mut seen: HashMap<_, u32> = HashMap::new();
        for record in &self.all {
            let fields: Vec<_> = record.fields().keys().collect();
            let times = seen.entry((record.event(), fields)).or_default();
            *times += 1;
            if *times <= SCHEMA_CHECKS
                && let Err(why) = SCHEMA.validate(&record.value)
            {
                panic!("docs/events.schema.json refuses {}: {why}", record.line);
            }
        }
    }

    /// What docs/events.md promises of every run.
    pub fn keep_their_promises(&self) {
        assert!(self.all.len() >= 2, "no start or no end: {:?}", self.all);
        for record in &self.all {
            record.keeps_its_promises();
        }
        if !confinement::in_guest() {
            self.fit_the_schema();
        }
        assert_eq!(self.start().event(), "start", "the first line");
        assert_eq!(self.end().event(), "end", "the last line");
        assert_eq!(self.of("start").count(), 1);
        assert_eq!(self.of("end").count(), 1);
        for key in ["version", "kernel"] {
            self.start().need_text(key);
        }
        let hooks = self.start().get("hooks");
        assert!(
            hooks.is_some_and(Value::is_object),
            "hooks: {}",
            self.start().line
        );

        let lost: u64 = self.of("lost").map(|record| record.need_int("count")).sum();
        assert_eq!(
            self.lost(),
            lost,
            "end.lost, and the sum of the lost records"
        );
        for record in self.of("lost") {
            let causes = [
                "ring_full",
                "map_full",
                "sink_full",
                "recursion",
                "overlooked",
            ];
            assert!(
                causes.contains(&record.need_text("cause")),
                "{}",
                record.line
            );
            let kinds = ["count", "accepts", "closes", "time_waits", "others"];
            let kinds = kinds.iter().filter_map(|kind| record.int(kind));
            assert_ne!(kinds.sum::<u64>(), 0, "{}", record.line);
        }
        let transitions = self.of("transition").count() as u64;
        if transitions > 0 {
            assert_eq!(
                self.end().need_int("transitions"),
                transitions,
                "{}",
                self.end().line
            );
        }
        for records in self.by_connection().values() {
            lives_one_life(records, self.lost() == 0);
        }
    }

    /// The records of each connection. A socket that is used again keeps its cookie: what leaves
    /// `CLOSE` after a close is another connection.
    fn by_connection(&self) -> BTreeMap<(&str, usize), Vec<&Record>> {
        let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
        let mut connections: BTreeMap<(&str, usize), Vec<&Record>> = BTreeMap::new();
        for record in self
            .all
            .iter()
            .filter(|record| record.is_about_a_connection())
        {
            let life = lives.entry(record.conn()).or_default();
            let ended = connections
                .get(&(record.conn(), *life))
                .is_some_and(|records| records.iter().any(|record| record.event() == "close"));
            if ended && record.text("old") == Some("CLOSE") {
                *life += 1;
            }
            let mut life = *life;
            if record.text("old") == Some("TIME_WAIT") {
                // The socket can connect again while what remains of its last connection waits.
                let ends = (record.local(), record.remote());
                life = (0..=life)
                    .rfind(|life| {
                        let records = connections.get(&(record.conn(), *life));
                        records.is_some_and(|records| {
                            (records[0].local(), records[0].remote()) == ends
                                && records.iter().any(|it| it.text("new") == Some("TIME_WAIT"))
                        })
                    })
                    .unwrap_or(life);
            }
            connections
                .entry((record.conn(), life))
                .or_default()
                .push(record);
        }
        connections
    }
}

/// What holds for all records of one connection.
fn lives_one_life(records: &[&Record], whole: bool) {
    let lines = || lines(records);
    // What waits is told of before its earlier steps are.
    let timely: Vec<_> = records
        .iter()
        .filter(|record| record.event() != "slow")
        .collect();
    for pair in timely.windows(2) {
        // Reset in the queue, accepted nevertheless, and told only then.
        let was_over = pair[0].event() == "accept" && pair[1].is("transition", "CLOSE");
        assert!(
            was_over || pair[0].mono_us() <= pair[1].mono_us(),
            "time goes back:\n{}",
            lines()
        );
    }
    // Of a listener, and of whoever asked it.
    let asked = |record: &Record| record.event() == "retransmit" && record.role() == "listener";
    let Some(first) = records.iter().find(|record| !asked(record)) else {
        return;
    };
    for record in records.iter().filter(|record| !asked(record)) {
        assert_eq!(
            record.local(),
            first.local(),
            "the local end changes:\n{}",
            lines()
        );
        assert_eq!(
            record.remote(),
            first.remote(),
            "the remote end changes:\n{}",
            lines()
        );
        // What was open at start may be understood later, but then for good.
        assert!(
            [first.role(), records.last().unwrap().role()].contains(&record.role())
                && (first.role() == "unknown" || record.role() == first.role()),
            "the role changes:\n{}",
            lines()
        );
    }
    let closes = records
        .iter()
        .filter(|record| record.event() == "close")
        .count();
    assert!(closes <= 1, "{closes} close records:\n{}", lines());
    if !whole {
        return;
    }
    let mut state = None;
    for record in records {
        match record.event() {
            "socket" => state = record.text("state"),
            "transition" => {
                if state.is_some() {
                    assert_eq!(record.text("old"), state, "a step is missing:\n{}", lines());
                }
                state = record.text("new");
            }
            _ => {}
        }
    }
}

/// Every connection whose socket came to `CLOSE` was closed, once.
pub fn each_end_has_its_close(records: &[&Record]) {
    let mut ends: HashMap<&str, (usize, usize)> = HashMap::new();
    for record in records {
        let counts = ends.entry(record.conn()).or_default();
        // A time-wait socket is what remains after the end.
        let ends = match record.text("old") {
            Some("TIME_WAIT") => false,
            _ => record.is("transition", "CLOSE") || record.is("transition", "TIME_WAIT"),
        };
        if ends {
            counts.0 += 1;
        } else if record.event() == "close" {
            counts.1 += 1;
        }
    }
    for (conn, (transitions, closes)) in ends {
        if transitions != closes {
            let of_it: Vec<_> = records
                .iter()
                .copied()
                .filter(|record| record.conn() == conn)
                .collect();
            panic!(
                "connection {conn}: {transitions} last transitions, {closes} close records:\n{}",
                lines(&of_it)
            );
        }
    }
}
