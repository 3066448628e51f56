//! Transitions that the kernel lets no program see. A kernel that does so cannot be had for every test:
//! the records in the tracer's maps are put back afterwards, which leaves it with what it has there.

use std::time::Duration;

use aya::maps::{HashMap, Map, MapData};
use tcptrace_common::config::{SOCK_WORDS, TIME_WAIT_RECORD_WORDS};

use crate::{
    actor::Actor,
    harness::{Impossible, Test, alone},
    leftovers,
    netns::{Ip, Netns},
    record::{self, Record},
    stage::Exchange,
    tracer::Tracer,
    wait,
};

pub(crate) const TESTS: &[Test] = &[alone!(ends).smoke(), alone!(steps).smoke()];

const TRIES: usize = 8;

/// One of the tracer's maps.
pub(crate) struct Records<const WORDS: usize>(HashMap<MapData, u64, [u64; WORDS]>);

impl<const WORDS: usize> Records<WORDS>
where
    [u64; WORDS]: aya::Pod,
{
    pub(crate) fn of(pid: u32, name: &str) -> Self {
        let map = Map::HashMap(leftovers::map_of(pid, name));
        Self(HashMap::try_from(map).unwrap())
    }

    /// Those that have the namespace in them.
    pub(crate) fn within(&self, netns: u64) -> Vec<(u64, [u64; WORDS])> {
        let is_in = |words: &[u64; WORDS]| {
            let halves = |word: &u64| [*word & u64::from(u32::MAX), *word >> 32];
            words.iter().any(|word| halves(word).contains(&netns))
        };
        let all = self.0.iter().flatten();
        all.filter(|(_, words)| is_in(words)).collect()
    }

    /// Waits until the tracer has so many of them.
    pub(crate) fn until(&self, netns: u64, number: usize) -> Vec<(u64, [u64; WORDS])> {
        let mut last = 0;
        let records = wait::poll(Duration::from_secs(10), || {
            let records = self.within(netns);
            last = records.len();
            (last == number).then_some(records)
        });
        records.unwrap_or_else(|| panic!("{last} records, not {number}"))
    }

    pub(crate) fn put_back(&mut self, records: &[(u64, [u64; WORDS])]) {
        for (key, words) in records {
            self.0.insert(key, words, 0).unwrap();
        }
    }
}

/// Where the record of a pair says when its timer was stopped (`Pair`); 0: not, as far as was seen.
pub(crate) const ENDED_NS: usize = 2;

/// The records of pairs in a namespace that a tracer still has.
pub(crate) fn left_pairs(pid: u32, netns: u64) -> Vec<(u64, [u64; TIME_WAIT_RECORD_WORDS])> {
    Records::<TIME_WAIT_RECORD_WORDS>::of(pid, "TIME_WAITS").within(netns)
}

/// By their cookies, sockets that had the same address one after the other can be told apart.
fn sockets_are_known(tracer: &Tracer) -> Result<(), Impossible> {
    let start = tracer.await_start();
    let hooks = start.get("hooks").unwrap();
    if hooks.get("conn").and_then(serde_json::Value::as_str) == Some("bpf_get_socket_cookie") {
        return Ok(());
    }
    Err(Impossible(
        "here a socket that is no more cannot be told from another".to_owned(),
    ))
}

/// Each is told, as something that was found, and the transitions that brought the closes are counted.
fn ends() -> Result<(), Impossible> {
    for _ in 0..TRIES {
        if both_are_told()? {
            return Ok(());
        }
    }
    panic!("each of {TRIES} times a record's place was taken before it was found");
}

/// False if others were given the memory of these sockets before the records were found: then it has to be
/// counted, and no more.
fn both_are_told() -> Result<bool, Impossible> {
    let mut netns = Netns::new();
    let tracer = Tracer::start(&["--no-existing"]);
    sockets_are_known(&tracer)?;
    let mut sockets: Records<SOCK_WORDS> = Records::of(tracer.pid(), "SOCKS");
    let mut pairs: Records<TIME_WAIT_RECORD_WORDS> = Records::of(tracer.pid(), "TIME_WAITS");

    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    let listening = sockets.until(netns.inode, 1);
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let mut both = sockets.until(netns.inode, 3);
    // With one step alone it looks like one that is just being made.
    both.retain(|(key, _)| *key != listening[0].0);
    client.close(&near);
    server.act("eof", &far);
    server.close(&far);
    netns.settle(0);
    let waiting = pairs.until(netns.inode, 1);
    server.unlisten(&listener);
    sockets.until(netns.inode, 0);
    drop((client, server));
    netns.destroy();
    pairs.until(netns.inode, 0);

    sockets.put_back(&both);
    pairs.put_back(&waiting);
    let inode = netns.inode;
    let finished = tracer.finish();
    assert!(finished.status.success(), "{}", finished.stderr);
    let records = finished.records;
    let inferred = |event: &str| -> Vec<&Record> {
        let ours = records.within(inode).into_iter();
        ours.filter(|record| {
            record.event() == event
                && record.get("inferred").is_some()
                // Where late FINs are found by looking, they are inferred as well, and so is what ends by
                // one. Its beginning and its end are known.
                && record.text("new") != Some("TIME_WAIT")
                && record.get("duration_us").is_none()
        })
        .collect()
    };
    let closes = inferred("close");
    let all = || {
        let ours = records.within(inode).into_iter();
        let ours = ours.chain(records.of("lost"));
        let lines: Vec<_> = ours.map(|record| &*record.line).collect();
        lines.join("\n")
    };
    assert!(closes.len() <= 2, "{}", all());
    let both = closes.len() == 2;
    for close in closes {
        assert_eq!(close.text("reason"), Some("unknown"), "{}", close.line);
        let states = close.get("states").unwrap().as_object().unwrap();
        assert!(!states.contains_key("ESTABLISHED"), "{}", close.line);
    }
    let ends = inferred("transition");
    assert_eq!(ends.len(), 1, "{}", all());
    assert_eq!(ends[0].text("old"), Some("TIME_WAIT"), "{}", ends[0].line);
    assert_eq!(records.lost(), 2, "{}", all());
    Ok(both)
}

/// What is missing shows when the next one comes, and is counted.
fn steps() -> Result<(), Impossible> {
    let netns = Netns::new();
    let tracer = Tracer::start(&["--no-existing"]);
    sockets_are_known(&tracer)?;
    let mut sockets: Records<SOCK_WORDS> = Records::of(tracer.pid(), "SOCKS");
    let mut client = Actor::spawn(&netns, "client");
    let mut server = Actor::spawn(&netns, "server");
    let listener = server.listen(netns.addr(Ip::V4, 0), "");
    server.tell_accept(&listener, "");
    let (near, far) = Exchange::default().meet(&mut client, &mut server, listener.local);
    let await_state = |state: &str| {
        let told = tracer.wait_for(state, Duration::from_secs(5), |record| {
            record.is("transition", state) && record.is_of(&near)
        });
        told.unwrap().0
    };
    let conn = await_state("ESTABLISHED").conn().to_owned();
    let cookie = u64::from_str_radix(&conn, 16).unwrap();
    let mut before = sockets.until(netns.inode, 3);
    before.retain(|(_, words)| words.contains(&cookie));
    assert_eq!(before.len(), 1, "one record has this cookie");
    client.act("shutdown", &near);
    server.act("eof", &far);
    await_state("FIN_WAIT2");

    sockets.put_back(&before);
    server.close(&far);
    client.act("eof", &near);
    client.close(&near);
    await_state("TIME_WAIT");
    let records = tracer.finish().fine();
    let told: Vec<_> = records
        .within(netns.inode)
        .into_iter()
        .filter(|record| record.conn() == conn)
        .collect();
    let lines = record::lines(&told);
    let close = told.iter().find(|record| record.event() == "close");
    let close = close.unwrap_or_else(|| panic!("no close: {lines}"));
    let states = close.get("states").unwrap().as_object().unwrap();
    let names: Vec<_> = states.keys().map(String::as_str).collect();
    assert_eq!(names, ["SYN_SENT"], "{lines}");
    assert_eq!(records.lost(), 1, "{lines}");
    Ok(())
}
