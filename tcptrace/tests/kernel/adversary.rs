//! Processes that race on the same sockets with every call that changes state or owner, against the
//! kernel's log of states and their own of owners.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    actor::Actor,
    check, confinement,
    harness::{Test, alone},
    netns::Ip,
    record::{self, Record},
    stage::Stage,
};

pub(crate) const TESTS: &[Test] = &[alone!(riot).waits(10)];

type Ends = (SocketAddr, SocketAddr);

/// Who may own a connection: whoever connected, or accepted.
#[derive(Default)]
struct Log {
    connected: BTreeMap<Ends, BTreeSet<u64>>,
    accepted: BTreeMap<Ends, BTreeSet<u64>>,
    /// Who may have come to hold any of them
    holders: BTreeSet<u64>,
}

impl Log {
    fn add(&mut self, pid: u32, notes: &str) {
        for note in notes.split(',').filter(|note| !note.is_empty()) {
            let words: Vec<&str> = note.split(' ').collect();
            let (what, local, remote) = match words[..] {
                ["h", child] => {
                    self.holders.insert(child.parse().unwrap());
                    continue;
                }
                [what, local, remote] => (what, local, remote),
                _ => panic!("not a note: {note:?}"),
            };
            let ends = (local.parse().unwrap(), remote.parse().unwrap());
            let side = if what == "c" {
                &mut self.connected
            } else {
                &mut self.accepted
            };
            side.entry(ends).or_default().insert(pid.into());
        }
    }
}

/// `TCPTRACE_ADVERSARY_SECONDS`, or a few.
fn time() -> Duration {
    let asked = std::env::var("TCPTRACE_ADVERSARY_SECONDS").ok();
    let seconds = asked.map(|text| text.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(if confinement::in_guest() { 4 } else { 10 }))
}

/// In rounds, so that each starts with a fresh log of the kernel's.
fn riot() {
    const ROUND: Duration = Duration::from_secs(5);
    let rounds = (time().as_secs() / ROUND.as_secs()).max(1);
    let length = time().min(ROUND);
    let mut sum = Figures::default();
    for round in 0..rounds {
        sum.add(&one_round(round + 1, length));
    }
    crate::harness::figure!(
        "adversary: {} connections, {} accepts overlooked, {} without an owner, {} of unknown reason",
        sum.connections,
        sum.overlooked,
        sum.unowned,
        sum.unknown
    );
}

#[derive(Default)]
struct Figures {
    connections: usize,
    overlooked: u64,
    unowned: usize,
    unknown: usize,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.overlooked += other.overlooked;
        self.unowned += other.unowned;
        self.unknown += other.unknown;
    }
}

fn one_round(seed: u64, length: Duration) -> Figures {
    let stage = Stage::open_for(16 << 10, &["--no-existing", "--buffer", "64M"]);
    stage.netns.set("tcp_fastopen", "1543");
    stage.netns.set("tcp_fin_timeout", "2");
    stage.netns.set("tcp_syn_retries", "1");
    stage.netns.set("tcp_orphan_retries", "1");
    let mut parent = Actor::spawn(&stage.netns, "parent");
    let listener = parent.listen(stage.netns.addr(Ip::V4, 0), "backlog=16");
    let mut rioters = [parent.fork(), parent.fork(), parent.fork()];
    let pids: Vec<_> = rioters.iter().map(|it| it.who.pid.to_string()).collect();
    for (nth, rioter) in (0..).zip(&mut rioters) {
        rioter.tell(&format!(
            "riot {} {} {} {}",
            listener.id(),
            seed * 10 + nth,
            length.as_millis(),
            pids.join(" ")
        ));
    }
    let mut log = Log::default();
    for rioter in &mut rioters {
        let notes = rioter.answer();
        log.add(rioter.who.pid, &notes);
        log.holders.insert(rioter.who.pid.into());
    }
    for rioter in &mut rioters {
        rioter.unlisten(&listener);
    }
    parent.unlisten(&listener);
    let parent_pid = u64::from(parent.who.pid);
    let told = stage.end(0, &[]);
    let ours = told.ours();
    if told.records.lost() > 0 {
        eprintln!("{}", told.records.losses());
        check::lost_is_counted(&told.lives, &told.records, &ours);
    } else {
        check::same_transitions(&told.lives, &ours);
        record::each_end_has_its_close(&ours);
    }
    owners(&log, parent_pid, &ours);
    let closes: Vec<_> = ours
        .iter()
        .copied()
        .filter(|it| it.event() == "close" && it.role() != "listener")
        .collect();
    reasons(&closes);
    let lost = told.records.of("lost").filter_map(|it| it.int("accepts"));
    let count = |fits: fn(&Record) -> bool| closes.iter().filter(|it| fits(it)).count();
    Figures {
        connections: closes.len(),
        overlooked: lost.sum(),
        unowned: count(|it| it.int("pid").is_none()),
        unknown: count(|it| it.text("reason") == Some("unknown")),
    }
}

/// Nobody is named who neither connected nor accepted; before the accept, the listener's maker is.
fn owners(log: &Log, parent: u64, ours: &[&Record]) {
    let nobody = BTreeSet::new();
    let mut wrong = Vec::new();
    for record in ours {
        let (Some(pid), Some(remote)) = (record.int("pid"), record.remote()) else {
            continue;
        };
        let ends = (record.local(), remote);
        let connected = log.connected.get(&ends).unwrap_or(&nobody);
        let accepted = log.accepted.get(&ends).unwrap_or(&nobody);
        let right = match record.source() {
            "connect" => connected.contains(&pid),
            "accept" => accepted.contains(&pid),
            "listener" => pid == parent,
            "handover" => log.holders.contains(&pid),
            _ => false,
        };
        if !right {
            wrong.push(record.line.clone());
        }
    }
    assert!(
        wrong.is_empty(),
        "{} records name somebody else, the first of them:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(5)].join("\n")
    );
}

/// The two ends of a connection end in ways that fit each other.
fn reasons(closes: &[&Record]) {
    let mut by_ends: BTreeMap<Ends, Vec<&Record>> = BTreeMap::new();
    for close in closes {
        let ends = (close.local(), close.remote().unwrap());
        by_ends.entry(ends).or_default().push(close);
    }
    let mut wrong = Vec::new();
    for (&(local, remote), near) in &by_ends {
        let far = by_ends.get(&(remote, local));
        // A pair of addresses that was used twice tells nothing.
        let ([near], Some(far)) = (&near[..], far) else {
            continue;
        };
        let [far] = &far[..] else { continue };
        let [one, other] = [near, far].map(|it| it.text("reason").unwrap());
        let fits = match one {
            "normal" => matches!(other, "normal" | "unknown"),
            "reset_received" => near.get("inferred").is_some() || other != "normal",
            "refused" | "reset_sent" => other != "normal",
            _ => true,
        };
        if !fits {
            wrong.push(format!("{one} and {other}:\n{}\n{}", near.line, far.line));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} pairs do not fit, the first of them: {}",
        wrong.len(),
        wrong[..wrong.len().min(3)].join("\n")
    );
}
