//! No room on the list of time-wait sockets that the tracer looks at.

use std::{fs, time::Duration};

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues, Queue};
use rustix::process::Signal;
use tcptrace_common::{
    config::TIME_WAIT_RECORD_WORDS,
    count::{COUNTS, UNCLAIMED},
};

use super::{SOON, await_end, await_state};
use crate::{
    actor::Actor,
    confinement,
    harness::{Impossible, Test, alone},
    hidden::{self, ENDED_NS},
    leftovers,
    netns::Netns,
    reasons::meet_puppet,
    tracer::Tracer,
    wait,
    wire::{ACK, FIN, RST, Wire},
};

pub(crate) const TESTS: &[Test] = &[alone!(full_list)];

/// Where a record has its connection, and since when it is in `TIME_WAIT` (`Pair`).
const CONN: usize = 0;
const SINCE_NS: usize = 1;

/// No socket is there.
const NOBODY: [u64; 2] = [0; 2];

/// The list, filled with nobody.
struct Full(Queue<MapData, [u64; 2]>);

impl Full {
    fn of(tracer: &Tracer) -> Self {
        let map = leftovers::map_of(tracer.pid(), "POLL_QUEUE");
        let mut list = Queue::try_from(Map::Queue(map)).unwrap();
        while list.push(NOBODY, 0).is_ok() {}
        Self(list)
    }

    /// Leaves those on it that were there before.
    fn clear(mut self) {
        let mut others = Vec::new();
        while let Ok(listed) = self.0.pop(0) {
            if listed != NOBODY {
                others.push(listed);
            }
        }
        for listed in others {
            self.0.push(listed, 0).unwrap();
        }
    }
}

/// What ends then is told soon, and as what was seen. And in the end of the trace is told what nobody has told of,
/// however much there is.
fn full_list() -> Result<(), Impossible> {
    let netns = Netns::new();
    let wire = Wire::stretch(&netns);
    let tracer = Tracer::spawn_with(
        "tracepoint",
        &["--no-existing", "--max-sockets", "262144", "--json"],
    );
    let start = tracer.await_start();
    let hook = start.get("hooks").and_then(|hooks| hooks.get("time_wait"));
    if !hook.is_some_and(|hook| hook.to_string().contains("timer")) {
        return Err(Impossible("no timer is seen here".to_owned()));
    }
    let mut client = Actor::spawn(&netns, "client");
    let meet = |client: &mut Actor, port| {
        let (near, mut puppet) = meet_puppet(&wire, client, port);
        client.close(&near);
        puppet.hear(FIN);
        puppet.say(FIN | ACK);
        puppet.hear(ACK);
        tracer.wait_for("TIME_WAIT", SOON, |record| {
            record.is("transition", "TIME_WAIT") && record.is_of(&near)
        });
        (near, puppet)
    };
    let mut cut: Vec<_> = (80..84).map(|port| meet(&mut client, port)).collect();
    let (set_anew, mut repeater) = meet(&mut client, 90);
    let mut pairs = hidden::Records::<TIME_WAIT_RECORD_WORDS>::of(tracer.pid(), "TIME_WAITS");
    let words_of = |pairs: &hidden::Records<TIME_WAIT_RECORD_WORDS>, port: u16| {
        let of_port = |words: &[u64]| {
            words
                .iter()
                .any(|word| word >> 16 & 0xffff == u64::from(port))
        };
        let mut all = pairs.within(netns.inode).into_iter();
        all.find_map(|(_, words)| of_port(&words[CONN + 1..]).then_some(words))
    };
    pairs.until(netns.inode, cut.len() + 1);
    let template = words_of(&pairs, cut[0].0.remote.port()).unwrap();

    stop(&tracer);
    let full = Full::of(&tracer);
    // Another bucket of the timer wheel is some seconds away.
    let said = repeater.next.wrapping_sub(1);
    let anew = wait::poll(Duration::from_secs(20), || {
        repeater.next = said;
        repeater.say(FIN | ACK);
        words_of(&pairs, set_anew.remote.port()).filter(|words| words[ENDED_NS] != 0)
    });
    assert!(anew.is_some(), "its timer was not set anew");
    for (near, cutter) in &mut cut {
        cutter.say(RST);
        await_state(&netns, near, None);
    }
    full.clear();
    tracer.signal(Signal::CONT);
    for (near, _) in &cut {
        await_end(&tracer, near, "TIME_WAIT", SOON);
    }
    let runs = wait::poll(SOON, || {
        words_of(&pairs, set_anew.remote.port()).filter(|words| words[ENDED_NS] == 0)
    });
    assert!(runs.is_some(), "it looks as if it had ended");
    await_state(&netns, &set_anew, Some("TIME_WAIT"));

    stop(&tracer);
    // More than one look at them has time for.
    let number = if confinement::in_guest() {
        20_000
    } else {
        150_000
    };
    // Of every other one the stop was seen, and then nobody could remove the record.
    let stopped_ns = template[SINCE_NS] + 1;
    let untold: Vec<_> = (1..=number)
        .map(|number| {
            let mut words = template;
            words[CONN] = u64::MAX / 2 + number;
            words[ENDED_NS] = stopped_ns * (number % 2);
            (words[CONN], words)
        })
        .collect();
    pairs.put_back(&untold);
    count_unclaimed(&tracer, number / 2);
    tracer.signal(Signal::INT);
    tracer.signal(Signal::CONT);
    let records = tracer.wait().fine();
    let ours = records.within(netns.inode);
    let ends: Vec<_> = ours
        .iter()
        .filter(|record| record.text("old") == Some("TIME_WAIT"))
        .collect();
    let of = |held| ends.iter().filter(move |record| record.is_of(held));
    for (near, _) in &cut {
        let seen = of(near).filter(|end| end.get("inferred").is_none());
        assert_eq!(seen.count(), 1, "{near:?} was cut");
    }
    assert_eq!(of(&set_anew).count(), 0, "it has not ended");
    let inferred = ends.iter().filter(|end| end.get("inferred").is_some());
    let lost = records.of("lost").filter_map(|lost| lost.int("time_waits"));
    let lost: u64 = lost.sum();
    assert_eq!(
        inferred.count() as u64 + lost,
        number,
        "and {lost} were lost"
    );
    Ok(())
}

fn stop(tracer: &Tracer) {
    tracer.signal(Signal::STOP);
    stands_still(tracer.pid());
}

fn count_unclaimed(tracer: &Tracer, number: u64) {
    let map = Map::PerCpuArray(leftovers::map_of(tracer.pid(), "COUNT"));
    let mut counters = PerCpuArray::<_, [u64; COUNTS]>::try_from(map).unwrap();
    let mut per_cpu = counters.get(&0, 0).unwrap().to_vec();
    per_cpu[0][UNCLAIMED] += number;
    let per_cpu = PerCpuValues::try_from(per_cpu).unwrap();
    counters.set(0, per_cpu, 0).unwrap();
}

/// Until the process has stopped.
fn stands_still(pid: u32) {
    let stat = format!("/proc/{pid}/stat");
    let stopped = wait::poll(Duration::from_secs(10), || {
        let stat = fs::read_to_string(&stat).unwrap();
        let (_, state) = stat.rsplit_once(") ").unwrap();
        state.starts_with('T').then_some(())
    });
    assert!(stopped.is_some(), "it runs");
}
