//! What the tracer reports against what the oracle recorded.

mod owner;

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use crate::{
    oracle::{Life, Step},
    record::{self, Record, Records},
};
pub use owner::{
    Pair, accept_hook, client_side, found_later, names, owners, sees_blocked_accept,
    sees_io_uring_accept, server_side,
};

/// How far the tracer's time of an event may be from ftrace's: both hooks run one after the
/// other, but a virtual machine can be stopped between them.
pub const CLOCK_TOLERANCE_US: u64 = 50_000;

/// The step as the tracer reports it.
///
/// The kernel has no transition to `TIME_WAIT`: it closes the socket and makes another, smaller
/// one. Steps that lead to where they began stay as they are: `close()` after `shutdown()` makes
/// the kernel report `FIN_WAIT2` to `FIN_WAIT2`.
fn reported(step: &Step) -> (&'static str, &'static str) {
    let new = if step.time_wait {
        "TIME_WAIT"
    } else {
        step.new
    };
    (step.old, new)
}

/// A connection as both sides have it: its ends and the states it went through.
type Course = (SocketAddr, Option<SocketAddr>, String);

type Ends = (SocketAddr, Option<SocketAddr>);

fn ends_of_life(life: &Life) -> Ends {
    let (local, remote) = life.ends();
    (local, (!life.is_listener()).then_some(remote))
}

fn course_of_life(life: &Life) -> Course {
    let (local, remote) = ends_of_life(life);
    (local, remote, path(life.steps.iter().map(reported)))
}

/// How a life ended, as the oracle has it.
struct Ended {
    begun_us: u64,
    /// A time-wait socket took the place of its socket
    time_waits: bool,
}

/// A time-wait socket can
/// remain in `FIN_WAIT2` first, for the peer's FIN. If that has not come yet, nothing was told; if
/// it never came, `CLOSE` was. Which it should be is what `timewait` tests.
fn course_of_records(records: &[&Record], ended: &BTreeMap<Ends, Vec<Ended>>) -> Course {
    let first = records[0];
    let mut steps: Vec<_> = records
        .iter()
        .map(|record| (record.text("old").unwrap(), record.text("new").unwrap()))
        .collect();
    // The same ends may have had another life, which ended otherwise.
    let lives = ended.get(&(first.local(), first.remote()));
    let life = lives.and_then(|lives| {
        let nearest = |life: &&Ended| life.begun_us.abs_diff(first.mono_us());
        lives.iter().min_by_key(nearest)
    });
    if life.is_some_and(|life| life.time_waits) {
        steps.pop_if(|last| *last == ("FIN_WAIT2", "CLOSE"));
        if steps.last().is_some_and(|(_, new)| *new == "FIN_WAIT2") {
            steps.push(("FIN_WAIT2", "TIME_WAIT"));
        }
    }
    (first.local(), first.remote(), path(steps.into_iter()))
}

fn path<'step>(steps: impl Iterator<Item = (&'step str, &'step str)>) -> String {
    let mut path = String::new();
    let mut last = None;
    for (old, new) in steps {
        if last != Some(old) {
            // A first step, or one that does not continue the step before it.
            write!(path, " {old}").unwrap();
        }
        write!(path, ">{new}").unwrap();
        last = Some(new);
    }
    path
}

/// The transitions the tracer shows are those that happened, one for one: for each connection the
/// same steps, in order, at the same time.
pub fn same_transitions(oracle: &[Life], records: &[&Record]) {
    // A socket that is used again keeps its cookie; each life leaves CLOSE.
    let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
    let mut connections: BTreeMap<(&str, usize), Vec<&Record>> = BTreeMap::new();
    let (exits, steps): (Vec<_>, Vec<_>) = records
        .iter()
        .copied()
        .filter(|record| record.event() == "transition")
        .partition(|record| record.text("old") == Some("TIME_WAIT"));
    each_exit_has_its_entry(&exits, &steps);
    for record in steps {
        let life = lives.entry(record.conn()).or_default();
        *life += usize::from(record.text("old") == Some("CLOSE"));
        connections
            .entry((record.conn(), *life))
            .or_default()
            .push(record);
    }
    let mut ended: BTreeMap<Ends, Vec<Ended>> = BTreeMap::new();
    for life in oracle {
        ended.entry(ends_of_life(life)).or_default().push(Ended {
            begun_us: life.steps[0].at_ns / 1000,
            time_waits: life.time_waits(),
        });
    }
    let mut told: BTreeMap<Course, Vec<&Vec<&Record>>> = BTreeMap::new();
    for records in connections.values() {
        told.entry(course_of_records(records, &ended))
            .or_default()
            .push(records);
    }
    let mut happened: BTreeMap<Course, Vec<&Life>> = BTreeMap::new();
    for life in oracle {
        happened.entry(course_of_life(life)).or_default().push(life);
    }

    let [mut untold, mut faults] = [const { Vec::new() }; 2];
    for (story, lives) in &happened {
        let count = told.get(story).map_or(0, Vec::len);
        for life in lives.iter().skip(count) {
            let mut fault = format!("happened, but was not told: {}", name(story));
            for step in &life.steps {
                write!(fault, "\n    {step}").unwrap();
            }
            untold.push(fault);
        }
    }
    for (story, tellings) in &told {
        let count = happened.get(story).map_or(0, Vec::len);
        for records in tellings.iter().skip(count) {
            faults.push(format!(
                "told, but did not happen: {}\n{}",
                name(story),
                record::lines(records)
            ));
        }
    }
    assert!(
        untold.is_empty() && faults.is_empty(),
        "{} connections happened, {} were told; {} differences, the first of them:\n{}",
        oracle.len(),
        connections.len(),
        untold.len() + faults.len(),
        [&untold, &faults]
            .map(|faults| faults[..faults.len().min(3)].join("\n"))
            .join("\n")
    );

    for (story, tellings) in &mut told {
        // The same ends and the same steps: told apart by time.
        tellings.sort_by_key(|records| records[0].mono_us());
        for (life, records) in happened[story].iter().zip(tellings) {
            for (step, record) in life.steps.iter().zip(records.iter()) {
                let at_us = step.at_ns / 1000;
                let apart = record.mono_us().abs_diff(at_us);
                // The end of a FIN_WAIT2 that lives on in a time-wait socket is later.
                let later = step.time_wait && record.mono_us() > at_us;
                assert!(
                    apart <= CLOCK_TOLERANCE_US || later,
                    "the time is {apart} us off:\n{step}\n{}",
                    record.line
                );
            }
        }
    }
}

/// How much of a life was told: so many steps, from this one on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    pub from: usize,
    pub steps: usize,
}

impl Piece {
    /// Whether it is all of the life. A time-wait socket may still wait for the peer's FIN.
    pub fn is_whole(self, life: &Life) -> bool {
        let last = usize::from(life.time_waits());
        self.from == 0 && self.steps + last >= life.steps.len()
    }
}

/// What is told of a connection is a piece of its life without a gap, and is told once. One piece
/// for each life.
pub fn pieces(oracle: &[Life], records: &[&Record]) -> Vec<Piece> {
    let mut by_ends: BTreeMap<Ends, Vec<usize>> = BTreeMap::new();
    for (at, life) in oracle.iter().enumerate() {
        by_ends.entry(ends_of_life(life)).or_default().push(at);
    }
    let mut connections: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if record.event() == "transition" && record.text("old") != Some("TIME_WAIT") {
            connections.entry(record.conn()).or_default().push(record);
        }
    }
    let mut pieces = vec![Piece::default(); oracle.len()];
    for told in connections.values() {
        let ends = (told[0].local(), told[0].remote());
        let found = by_ends.get(&ends).into_iter().flatten().find_map(|at| {
            let free = pieces[*at].steps == 0;
            let from = place_in(&oracle[*at], told).filter(|_| free)?;
            Some((*at, from))
        });
        let (at, from) = found
            .unwrap_or_else(|| panic!("no connection went through this:\n{}", record::lines(told)));
        let steps = told.len();
        pieces[at] = Piece { from, steps };
    }
    pieces
}

/// With which step of the life these records begin.
fn place_in(life: &Life, told: &[&Record]) -> Option<usize> {
    let is_of = |(step, record): (&Step, &&Record)| {
        let (old, new) = reported(step);
        let at_us = step.at_ns / 1000;
        let told_us = record.mono_us();
        // As the kernel reports it, where there was no room to wait for the peer's FIN.
        let fits = record.text("new") == Some(new) || record.text("new") == Some(step.new);
        record.text("old") == Some(old)
            && fits
            && (told_us.abs_diff(at_us) <= CLOCK_TOLERANCE_US
                || (step.time_wait && told_us > at_us))
    };
    let mut runs = life.steps.windows(told.len());
    runs.position(|run| run.iter().zip(told).all(is_of))
}

/// What leaves `TIME_WAIT` entered it before, under the same id and between the same ends.
fn each_exit_has_its_entry(exits: &[&Record], steps: &[&Record]) {
    let mut open: BTreeMap<(&str, SocketAddr, Option<SocketAddr>), Vec<u64>> = BTreeMap::new();
    for entry in steps {
        if entry.is("transition", "TIME_WAIT") {
            open.entry((entry.conn(), entry.local(), entry.remote()))
                .or_default()
                .push(entry.mono_us());
        }
    }
    for exit in exits {
        assert!(exit.is("transition", "CLOSE"), "{}", exit.line);
        let entry_us = open
            .get_mut(&(exit.conn(), exit.local(), exit.remote()))
            .and_then(|entries| (!entries.is_empty()).then(|| entries.remove(0)))
            .unwrap_or_else(|| panic!("leaves TIME_WAIT, but never entered it: {}", exit.line));
        let waited_us = exit.int("in_old_us");
        assert!(
            waited_us.is_some_and(|waited| waited.abs_diff(exit.mono_us() - entry_us) <= 1),
            "it entered TIME_WAIT at {entry_us}: {}",
            exit.line
        );
    }
}

fn name((local, remote, path): &Course) -> String {
    match remote {
        Some(remote) => format!("{local} -> {remote}{path}"),
        None => format!("{local}{path}"),
    }
}

/// Whether this kernel is too old to give cookies to tracing programs: before 5.12.
pub fn own_ids() -> bool {
    kernel_version() < (5, 12)
}

fn kernel_version() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether records of a storm lack something, which they may on one kind of kernels alone: from 7.0 on
/// a task can be preempted in a tracepoint, and enough of them keep all of our programs busy. Then it
/// is told how much. `beginning`: so many clients may have been between their first step and their port
/// when the trace ended.
pub fn lacks(records: &Records, beginning: u64) -> bool {
    let of_cause = |cause| {
        let lost = records.of("lost");
        let lost = lost.filter(|record| record.text("cause") == Some(cause));
        lost.map(|record| record.int("count").unwrap()).sum::<u64>()
    };
    let (hidden, portless) = (of_cause("recursion"), of_cause("map_full"));
    let transitions = records.end().int("transitions").unwrap();
    assert!(
        records.lost() == hidden + portless
            && portless <= beginning
            && (hidden == 0 || kernel_version() >= (7, 0))
            && hidden * 50 <= transitions,
        "{hidden} hidden, {portless} without a port: {}",
        records.end().line
    );
    if hidden > 0 {
        crate::figure!(
            "the kernel hid {hidden} of some {transitions} transitions, and it was told"
        );
    }
    hidden > 0
}

/// What the kernel has hidden was counted: as much at least as `records` lack of what happened, but for what only
/// ftrace can see ([`Step::over_first`]). `ours` are those in the namespace of the lives.
pub fn lost_is_counted(oracle: &[Life], records: &Records, ours: &[&Record]) {
    let happened: usize = oracle.iter().map(|life| life.steps.len()).sum();
    let told = ours
        .iter()
        .filter(|record| record.event() == "transition" && record.text("old") != Some("TIME_WAIT"));
    let told = told.count();
    let lost = usize::try_from(records.lost()).unwrap();
    let steps = oracle.iter().flat_map(|life| &life.steps);
    let over_first = steps.filter(|step| step.over_first).count();
    assert!(
        told + lost + over_first >= happened,
        "{happened} transitions happened, {over_first} of them over the first process; {told} were told and {lost} lost"
    );
}
