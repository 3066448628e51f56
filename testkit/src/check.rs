//! The tracer's story against the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

use crate::{
    actor::{Held, Who},
    oracle::{Life, Step},
    record::{self, Record, Records},
};

/// How far the tracer's time of an event may be from ftrace's: both hooks run one after the
/// other, but a virtual machine can be stopped between them.
pub const CLOCK_TOLERANCE_US: u64 = 50_000;

/// Around `accept()` returning, either owner is right: the record of the acceptance and a
/// transition on another CPU do not wait for each other.
const ACCEPT_TOLERANCE_US: u64 = 1000;

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

/// A connection as both sides tell it: its ends and the states it went through.
type Story = (SocketAddr, Option<SocketAddr>, String);

type Ends = (SocketAddr, Option<SocketAddr>);

fn ends_of_life(life: &Life) -> Ends {
    let (local, remote) = life.ends();
    (local, (!life.is_listener()).then_some(remote))
}

fn story_of_life(life: &Life) -> Story {
    let (local, remote) = ends_of_life(life);
    (local, remote, path(life.steps.iter().map(reported)))
}

/// `time_waits`: ends of sockets that time-wait sockets took the place of. Such a socket can
/// remain in `FIN_WAIT2` first, for the peer's FIN. If that has not come yet, nothing was told; if
/// it never came, `CLOSE` was. Which it should be is what `timewait` tests.
fn story_of_records(records: &[&Record], time_waits: &BTreeSet<Ends>) -> Story {
    let first = records[0];
    let mut steps: Vec<_> = records
        .iter()
        .map(|record| (record.text("old").unwrap(), record.text("new").unwrap()))
        .collect();
    if time_waits.contains(&(first.local(), first.remote())) {
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
pub fn same_transitions(truth: &[Life], records: &[&Record]) {
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
    let time_waits: BTreeSet<Ends> = truth
        .iter()
        .filter(|life| life.time_waits())
        .map(ends_of_life)
        .collect();
    let mut told: BTreeMap<Story, Vec<&Vec<&Record>>> = BTreeMap::new();
    for records in connections.values() {
        told.entry(story_of_records(records, &time_waits))
            .or_default()
            .push(records);
    }
    let mut happened: BTreeMap<Story, Vec<&Life>> = BTreeMap::new();
    for life in truth {
        happened.entry(story_of_life(life)).or_default().push(life);
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
        truth.len(),
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
pub fn pieces(truth: &[Life], records: &[&Record]) -> Vec<Piece> {
    let mut by_ends: BTreeMap<Ends, Vec<usize>> = BTreeMap::new();
    for (at, life) in truth.iter().enumerate() {
        by_ends.entry(ends_of_life(life)).or_default().push(at);
    }
    let mut connections: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if record.event() == "transition" && record.text("old") != Some("TIME_WAIT") {
            connections.entry(record.conn()).or_default().push(record);
        }
    }
    let mut pieces = vec![Piece::default(); truth.len()];
    for told in connections.values() {
        let ends = (told[0].local(), told[0].remote());
        let found = by_ends.get(&ends).into_iter().flatten().find_map(|at| {
            let free = pieces[*at].steps == 0;
            let from = place_in(&truth[*at], told).filter(|_| free)?;
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

fn name((local, remote, path): &Story) -> String {
    match remote {
        Some(remote) => format!("{local} -> {remote}{path}"),
        None => format!("{local}{path}"),
    }
}

/// Who is behind a connection between two processes of a test.
#[derive(Clone, Debug)]
pub struct Pair {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub dialer: Who,
    pub listener: Who,
    /// [`None`]: nobody accepted
    pub acceptor: Option<Who>,
    /// Cookies of the client's and the server's socket, where known
    pub cookies: [Option<String>; 2],
}

impl Pair {
    pub fn new(client: &Held, dialer: &Who, server: &Held, acceptor: &Who) -> Self {
        Self {
            client: client.local,
            server: client.remote,
            dialer: dialer.clone(),
            listener: acceptor.clone(),
            acceptor: Some(acceptor.clone()),
            cookies: [Some(client.cookie.clone()), Some(server.cookie.clone())],
        }
    }

    /// A connection of which only the ends are known.
    pub fn dialed(client: SocketAddr, server: SocketAddr, dialer: &Who, acceptor: &Who) -> Self {
        Self {
            client,
            server: SocketAddr::new(server.ip().to_canonical(), server.port()),
            dialer: dialer.clone(),
            listener: acceptor.clone(),
            acceptor: Some(acceptor.clone()),
            cookies: [None, None],
        }
    }

    /// The listening process is not the accepting one.
    pub fn listened_by(mut self, listener: &Who) -> Self {
        self.listener = listener.clone();
        self
    }

    /// Whether the record is about either of its sockets.
    pub fn is_of(&self, record: &Record) -> bool {
        let sides = |remote| self.matches(record.local(), remote).contains(&true);
        record.remote().is_some_and(sides)
    }

    fn matches(&self, local: SocketAddr, remote: SocketAddr) -> [bool; 2] {
        [
            (local, remote) == (self.client, self.server),
            (local, remote) == (self.server, self.client),
        ]
    }
}

/// The accept hook in use, as the start record names it.
pub fn accept_hook(start: &Record) -> &str {
    start
        .get("hooks")
        .and_then(|hooks| hooks.get("accept"))
        .and_then(serde_json::Value::as_str)
        .unwrap_or_default()
}

/// Whether the tracer can name who accepts through `io_uring`: by the hooks inside the kernel's
/// accept, not by those at the end of the system call.
pub fn sees_io_uring_accept(start: &Record) -> bool {
    let hook = accept_hook(start);
    ["__inet_accept", "sock_graft", "inet_csk_accept"]
        .iter()
        .any(|inside| hook.contains(inside))
}

/// Whether the tracer can name who sits in `accept()` since before it was started: not where it
/// learns of the return from a function that was entered before.
pub fn sees_blocked_accept(start: &Record) -> bool {
    let hook = accept_hook(start);
    !hook.is_empty() && hook != "none" && !hook.starts_with("kretprobe")
}

/// Every record about a connection names the process whose connection it is: on the client's side
/// the one that connected, on the server's the listening one and then the accepting one.
pub fn owners(pairs: &[Pair], records: &[&Record]) {
    let mut sides: BTreeMap<(SocketAddr, SocketAddr), Vec<&Record>> = BTreeMap::new();
    for record in records {
        if let Some(remote) = record.remote() {
            sides
                .entry((record.local(), remote))
                .or_default()
                .push(record);
        }
    }
    for (&(local, remote), records) in &sides {
        assert!(
            pairs
                .iter()
                .any(|pair| pair.matches(local, remote).contains(&true)),
            "nobody made this connection:\n{}",
            record::lines(records)
        );
    }
    for pair in pairs {
        let side = |local, remote| {
            sides
                .get(&(local, remote))
                .unwrap_or_else(|| panic!("no record of {local} -> {remote}"))
        };
        let client = side(pair.client, pair.server);
        client_side(&pair.dialer, client);
        let server = side(pair.server, pair.client);
        server_side(pair, server);
        for (records, cookie) in [client, server].into_iter().zip(&pair.cookies) {
            if let Some(cookie) = cookie {
                assert!(
                    records[0].conn() == cookie || own_ids(),
                    "conn is not the socket's cookie {cookie}:\n{}",
                    record::lines(records)
                );
            }
        }
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

/// What the kernel has hidden was counted: as much at least as `records` lack of what happened.
/// `ours` are those in the namespace of the lives.
pub fn lost_is_counted(truth: &[Life], records: &Records, ours: &[&Record]) {
    let happened: usize = truth.iter().map(|life| life.steps.len()).sum();
    let told = ours
        .iter()
        .filter(|record| record.event() == "transition" && record.text("old") != Some("TIME_WAIT"));
    let told = told.count();
    let lost = usize::try_from(records.lost()).unwrap();
    assert!(
        told + lost >= happened,
        "{happened} transitions happened, {told} were told and {lost} lost"
    );
}

/// The records of a socket that connected.
pub fn client_side(dialer: &Who, records: &[&Record]) {
    for record in records {
        assert_eq!(record.role(), "client", "{}", record::lines(records));
        names(record, "connect", dialer, records);
    }
}

/// The records of a socket that a listener made.
pub fn server_side(pair: &Pair, records: &[&Record]) {
    let accepts: Vec<_> = records
        .iter()
        .filter(|record| record.event() == "accept")
        .collect();
    let expected = usize::from(pair.acceptor.is_some());
    assert_eq!(
        accepts.len(),
        expected,
        "accept records:\n{}",
        record::lines(records)
    );
    let accepted_us = accepts.first().map(|accept| accept.mono_us());
    for record in records {
        assert_eq!(record.role(), "server", "{}", record::lines(records));
        let at_us = record.mono_us();
        let before = accepted_us.is_none_or(|accept| at_us + ACCEPT_TOLERANCE_US < accept);
        let after = accepted_us.is_some_and(|accept| at_us > accept + ACCEPT_TOLERANCE_US);
        match (&pair.acceptor, record.source()) {
            (_, "listener") if !after && !matches!(record.event(), "accept") => {
                names(record, "listener", &pair.listener, records);
            }
            (Some(acceptor), _) if !before => names(record, "accept", acceptor, records),
            _ => names(record, "listener", &pair.listener, records),
        }
    }
    if let Some(accept) = accepts.first() {
        assert_eq!(
            accept.int("listener_pid"),
            Some(pair.listener.pid.into()),
            "listener_pid: {}",
            accept.line
        );
        assert!(accept.int("wait_us").is_some(), "wait_us: {}", accept.line);
    }
}

/// The record names this owner, known in this way.
pub fn names(record: &Record, source: &str, who: &Who, context: &[&Record]) {
    let named = (
        record.source(),
        record.int("pid"),
        record.text("comm"),
        record.int("uid"),
    );
    let expected = (
        source,
        Some(who.pid.into()),
        Some(who.comm.as_str()),
        Some(u64::from(who.uid)),
    );
    assert_eq!(
        named,
        expected,
        "owner (how known, pid, comm, uid) in\n{}\namong\n{}",
        record.line,
        record::lines(context)
    );
}
