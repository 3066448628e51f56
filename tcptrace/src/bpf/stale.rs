//! Ends that the kernel let no program see: finding the records that they leave behind.
//!
//! The kernel side knows a record of something that is no more when it is asked. That costs as much as
//! there are records, so it is done seldom, and only when something has happened.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData},
};
use tcptrace_common::config::{
    ALL_TIME_WAITS, FINDS_PER_RUN, RUNNING_TIME_WAITS, SOCK_WORDS, STALE_SOCKETS,
    STOPPED_TIME_WAITS, TIME_WAIT_RECORD_WORDS,
};

use super::{attach::load_own, object::chain, ring::run};

/// How often all records of sockets are looked at, if it does not take long.
const SOCKS_TURN: Duration = Duration::from_secs(10);
/// The same for pairs in `TIME_WAIT`, of which there are as many as connections in a minute.
const TIME_WAITS_TURN: Duration = Duration::from_secs(30);
/// How soon it goes on where there are too many to look at in one go.
const SOON: Duration = Duration::from_secs(1);
/// At most one part in so many of the time.
const SHARE: u32 = 100;
/// How long one look takes at most: the ring fills meanwhile.
const AT_MOST: Duration = Duration::from_millis(20);
/// At the end of a trace, so many at a time: between two, what the ring has is read.
const PART: usize = 1024;
/// How long somebody who is about to tell of an end may take, before the trace ends.
const PATIENCE: Duration = Duration::from_millis(20);

/// What the kernel side keeps a record of.
#[derive(Clone, Copy, Debug)]
struct Kind {
    map: &'static str,
    number: u64,
    /// They end by themselves: none that ends unseen need bring about another event
    times_out: bool,
}

const SOCKS: Kind = Kind {
    map: "SOCKS",
    number: STALE_SOCKETS,
    times_out: false,
};
/// Those whose timer was seen to stop are among them.
const TIME_WAITS: Kind = pairs(ALL_TIME_WAITS);

/// All pairs, or some of them.
const fn pairs(number: u64) -> Kind {
    Kind {
        map: "TIME_WAITS",
        number,
        times_out: true,
    }
}

/// When to look, and for what.
#[derive(Debug)]
pub(super) struct StaleSearch {
    loaded: bool,
    /// They could not be loaded
    blind: bool,
    sockets: Sweep,
    pairs: Sweep,
    /// While the programs are attached for the last time
    last: Option<[Last; 2]>,
    /// Once they are not
    stopped: Option<Last>,
}

impl StaleSearch {
    pub(super) fn new() -> Self {
        Self {
            loaded: false,
            blind: false,
            sockets: Sweep::new(SOCKS, SOCKS_TURN),
            pairs: Sweep::new(TIME_WAITS, TIME_WAITS_TURN),
            last: None,
            stopped: None,
        }
    }

    /// Poll at all records if it is time to, or goes on with that. `active`: something has happened since
    /// the last call. Returns how long to wait until the next look; none if there is no need for one.
    pub(super) fn turn(&mut self, ebpf: &mut Ebpf, active: bool) -> Option<Duration> {
        self.sockets.due |= active;
        self.pairs.due |= active;
        if self.sockets.is_time() || self.pairs.is_time() {
            self.load(ebpf);
            self.sockets.turn::<SOCK_WORDS>(ebpf);
            self.pairs.turn::<TIME_WAIT_RECORD_WORDS>(ebpf);
        }
        let sweeps = [&self.sockets, &self.pairs].into_iter();
        let next = sweeps.filter(|sweep| sweep.due).map(|sweep| sweep.next);
        next.min()
            .map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Poll at all records for the last time, a part at each call, while whoever is about to tell of an end
    /// still can. Returns whether that was the last part.
    pub(super) fn end(&mut self, ebpf: &mut Ebpf) -> bool {
        self.load(ebpf);
        let last = self.last.get_or_insert_with(|| {
            // Whoever looks at stopped timers has still to tell of the others: [`StaleSearch::rest`].
            [
                Last::of::<SOCK_WORDS>(ebpf, SOCKS),
                Last::of::<TIME_WAIT_RECORD_WORDS>(ebpf, pairs(RUNNING_TIME_WAITS)),
            ]
        });
        for kind in &mut *last {
            kind.look(ebpf);
        }
        if last.iter().any(|kind| !kind.left.is_empty()) {
            return false;
        }
        if last.iter().any(|kind| !kind.found.is_empty()) {
            std::thread::sleep(PATIENCE);
        }
        for kind in last {
            let found = std::mem::take(&mut kind.found);
            for key in find(ebpf, kind.kind, found.into_iter()) {
                tell(ebpf, kind.kind, key);
            }
        }
        true
    }

    /// Tells of what is left when stopped timers have been looked at, and none is stopped any more; a part at
    /// each call. Returns whether that was the last part.
    pub(super) fn rest(&mut self, ebpf: &mut Ebpf) -> bool {
        self.load(ebpf);
        let stopped = self.stopped.get_or_insert_with(|| {
            Last::of::<TIME_WAIT_RECORD_WORDS>(ebpf, pairs(STOPPED_TIME_WAITS))
        });
        stopped.look(ebpf);
        for key in std::mem::take(&mut stopped.found) {
            tell(ebpf, stopped.kind, key);
        }
        stopped.left.is_empty()
    }

    /// Whether there are records, and nothing can look at them here.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    /// Loads what looks and tells, once there is a record. Not before: at the start every millisecond and
    /// every file counts.
    fn load(&mut self, ebpf: &mut Ebpf) {
        let no_sockets = || is_empty::<SOCK_WORDS>(ebpf, SOCKS);
        if self.loaded || (no_sockets() && is_empty::<TIME_WAIT_RECORD_WORDS>(ebpf, TIME_WAITS)) {
            return;
        }
        self.load_now(ebpf);
    }

    /// Loads it now: later there may be no right to.
    pub(super) fn load_now(&mut self, ebpf: &mut Ebpf) {
        if std::mem::replace(&mut self.loaded, true) {
            return;
        }
        for name in ["find_stale", "report_stale"] {
            if let Err(why) = load_own(ebpf, name) {
                log::warn!(
                    "ends that the kernel hides are not looked for: {name}: {}",
                    chain(&why)
                );
                self.blind = true;
            }
        }
    }
}

/// All records of one kind, to be looked at for the last time.
#[derive(Debug)]
struct Last {
    kind: Kind,
    left: Vec<u64>,
    /// Of those looked at
    found: Vec<u64>,
}

impl Last {
    fn of<const WORDS: usize>(ebpf: &Ebpf, kind: Kind) -> Self
    where
        [u64; WORDS]: Pod,
    {
        let records = records_of::<WORDS>(ebpf, kind);
        let keys = records.iter().flat_map(|records| records.keys().flatten());
        Self {
            kind,
            left: keys.collect(),
            found: Vec::new(),
        }
    }

    fn look(&mut self, ebpf: &Ebpf) {
        let part = self.left.len().saturating_sub(PART);
        let part = self.left.drain(part..);
        self.found.extend(find(ebpf, self.kind, part));
    }
}

/// Going through the records of one kind again and again.
#[derive(Debug)]
struct Sweep {
    kind: Kind,
    /// How often, if it does not take long
    turn: Duration,
    next: Instant,
    /// Something has happened since the last look, or is in doubt
    due: bool,
    /// Found when all were looked at for the last time. An end that is about to be told looks the same,
    /// but not twice.
    before: HashSet<u64>,
    /// Found since then
    now: HashSet<u64>,
    /// Not looked at since then
    left: Vec<u64>,
}

impl Sweep {
    fn new(kind: Kind, turn: Duration) -> Self {
        Self {
            kind,
            turn,
            next: Instant::now() + turn,
            due: false,
            before: HashSet::new(),
            now: HashSet::new(),
            left: Vec::new(),
        }
    }

    fn is_time(&self) -> bool {
        self.due && Instant::now() >= self.next
    }

    /// Whether any seem to be of what has ended.
    fn is_in_doubt(&self) -> bool {
        !self.before.is_empty() || !self.now.is_empty()
    }

    /// Poll, or goes on with that, if it is time to.
    fn turn<const WORDS: usize>(&mut self, ebpf: &Ebpf)
    where
        [u64; WORDS]: Pod,
    {
        if !self.is_time() {
            return;
        }
        let begun = Instant::now();
        let whole = self.look::<WORDS>(ebpf);
        let goes_on = || self.kind.times_out && !is_empty::<WORDS>(ebpf, self.kind);
        self.due = !whole || self.is_in_doubt() || goes_on();
        let pause = if whole { self.turn } else { SOON };
        self.next = begun + pause.max(begun.elapsed() * SHARE);
    }

    /// Goes on looking, and has those told of that were found the last time. Returns whether all have been
    /// looked at by now.
    fn look<const WORDS: usize>(&mut self, ebpf: &Ebpf) -> bool
    where
        [u64; WORDS]: Pod,
    {
        if self.left.is_empty() {
            let records = records_of::<WORDS>(ebpf, self.kind);
            let keys = records.iter().flat_map(|records| records.keys().flatten());
            self.left.extend(keys);
        }
        let begun = Instant::now();
        let keys = std::iter::from_fn(|| {
            let has_time = begun.elapsed() < AT_MOST;
            has_time.then(|| self.left.pop()).flatten()
        });
        for key in find(ebpf, self.kind, keys) {
            if self.before.remove(&key) {
                tell(ebpf, self.kind, key);
            } else {
                self.now.insert(key);
            }
        }
        let whole = self.left.is_empty();
        if whole {
            self.left = Vec::new();
            self.before = std::mem::take(&mut self.now);
        }
        whole
    }
}

/// The records of a kind.
fn records_of<const WORDS: usize>(
    ebpf: &Ebpf,
    kind: Kind,
) -> Option<HashMap<&MapData, u64, [u64; WORDS]>>
where
    [u64; WORDS]: Pod,
{
    HashMap::try_from(ebpf.map(kind.map)?)
        .inspect_err(|why| log::debug!("{}: {why}", kind.map))
        .ok()
}

fn is_empty<const WORDS: usize>(ebpf: &Ebpf, kind: Kind) -> bool
where
    [u64; WORDS]: Pod,
{
    records_of::<WORDS>(ebpf, kind).is_none_or(|records| records.keys().next().is_none())
}

/// Those of these records that seem to be of what has ended.
fn find(ebpf: &Ebpf, kind: Kind, keys: impl Iterator<Item = u64>) -> HashSet<u64> {
    let mut found = HashSet::new();
    let mut keys = keys.fuse();
    loop {
        let mut args = [0; FINDS_PER_RUN + 1];
        args[0] = kind.number;
        let mut any = false;
        for (place, key) in args[1..].iter_mut().zip(&mut keys) {
            *place = key;
            any = true;
        }
        if !any {
            return found;
        }
        let bits = run(ebpf, "find_stale", &args).unwrap_or(0);
        if bits != 0 {
            let hidden = args[1..].iter().enumerate();
            found.extend(hidden.filter_map(|(at, key)| (bits >> at & 1 != 0).then_some(*key)));
        }
    }
}

/// Has the end told of that this record has not seen.
fn tell(ebpf: &Ebpf, kind: Kind, key: u64) {
    log::debug!("{} {key:x}: its end was hidden", kind.map);
    run(ebpf, "report_stale", &[kind.number, key]);
}
