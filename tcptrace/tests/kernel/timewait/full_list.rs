//! No room on the list of time-wait sockets that the tracer looks at.

use std::{fs, time::Duration};

use aya::maps::{Map, MapData, Queue};
use rustix::process::Signal;
use tcptrace_common::config::PAIR_WORDS;

use super::await_state;
use crate::{
    Impossible,
    actor::Actor,
    confinement, hidden, leftovers,
    netns::Netns,
    reasons::meet_puppet,
    tracer::Tracer,
    wait,
    wire::{ACK, FIN, RST, Wire},
};

/// Where a record has its connection, and the moment at which its timer was stopped (`Pair`).
const CONN: usize = 0;
const ENDED_NS: usize = 2;

/// No socket is there.
const NOBODY: [u64; 2] = [0; 2];

/// The list, filled with nobody.
struct Full(Queue<MapData, [u64; 2]>);

impl Full {
    fn of(tracer: &Tracer) -> Self {
        let map = leftovers::map_of(tracer.pid(), "WATCH");
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

/// A stopped timer then says nothing until somebody looks: each end is told in the end, however many there
/// are, and none that was none.
pub(super) fn full_list() -> Result<(), Impossible> {
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
        tracer.wait_for("TIME_WAIT", Duration::from_secs(5), |record| {
            record.is("transition", "TIME_WAIT") && record.is_of(&near)
        });
        (near, puppet)
    };
    let (cut, mut cutter) = meet(&mut client, 80);
    let (set_anew, mut repeater) = meet(&mut client, 81);
    let mut pairs = hidden::Records::<PAIR_WORDS>::of(tracer.pid(), "PAIRS");
    pairs.until(netns.inode, 2);

    tracer.signal(Signal::STOP);
    stands_still(tracer.pid());
    let full = Full::of(&tracer);
    let stopped = |port: u16| {
        pairs.within(netns.inode).into_iter().find(|(_, words)| {
            let ports = u64::from(port) << 16;
            words[ENDED_NS] != 0 && words.iter().any(|word| word & 0xffff_0000 == ports)
        })
    };
    // Another bucket of the timer wheel is some seconds away.
    let said = repeater.next.wrapping_sub(1);
    let anew = wait::poll(Duration::from_secs(20), || {
        repeater.next = said;
        repeater.say(FIN | ACK);
        stopped(set_anew.remote.port())
    });
    assert!(anew.is_some(), "its timer was not set anew");
    cutter.say(RST);
    await_state(&netns, &cut, None);
    let (_, ended) = stopped(cut.remote.port()).expect("told without a look");
    full.clear();
    await_state(&netns, &set_anew, Some("TIME_WAIT"));

    // More than one look at them has time for.
    let number = if confinement::in_guest() {
        20_000
    } else {
        150_000
    };
    let untold: Vec<_> = (1..=number)
        .map(|number| {
            let mut words = ended;
            words[CONN] = u64::MAX / 2 + number;
            (words[CONN], words)
        })
        .collect();
    pairs.put_back(&untold);
    tracer.signal(Signal::INT);
    tracer.signal(Signal::CONT);
    let records = tracer.wait().fine();
    let ours = records.within(netns.inode);
    let ends = || {
        ours.iter()
            .filter(|record| record.text("old") == Some("TIME_WAIT"))
    };
    let of = |held| ends().filter(|record| record.is_of(held)).count();
    let lost = records.of("lost").filter_map(|lost| lost.int("time_waits"));
    let lost: u64 = lost.sum();
    assert_eq!(of(&cut) as u64 + lost, number + 1, "and {lost} were lost");
    assert_eq!(of(&set_anew), 0, "it has not ended");
    assert!(ends().all(|end| end.get("inferred").is_some()));
    Ok(())
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
