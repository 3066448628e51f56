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
    FINDS_PER_RUN, HIDDEN_PAIRS, HIDDEN_SOCKS, PAIR_WORDS, SOCK_WORDS, STOPPED_PAIRS,
};

use super::{attach::load_own, object::chain, ring::run};

/// How often all records are looked at, if it does not take long.
const TURN: Duration = Duration::from_secs(10);
/// How soon it goes on where there are too many to look at in one go.
const SOON: Duration = Duration::from_secs(1);
/// At most one part in so many of the time.
const SHARE: u32 = 100;
/// How long one look takes at most: the ring fills meanwhile.
const AT_MOST: Duration = Duration::from_millis(20);
/// The same for the last one.
const AT_END: Duration = Duration::from_millis(50);
/// How long somebody who is about to tell of an end may take, before the trace ends.
const PATIENCE: Duration = Duration::from_millis(20);

/// What the kernel side keeps a record of.
#[derive(Clone, Copy)]
struct Kind {
    map: &'static str,
    number: u64,
}

const SOCKS: Kind = Kind {
    map: "SOCKS",
    number: HIDDEN_SOCKS,
};
const PAIRS: Kind = Kind {
    map: "PAIRS",
    number: HIDDEN_PAIRS,
};
/// Those that the program `watch` should have told of.
const STOPPED: Kind = Kind {
    map: "PAIRS",
    number: STOPPED_PAIRS,
};

/// Records that seem to be of what has ended, of one kind.
#[derive(Debug, Default)]
struct Suspects {
    /// Found when all were looked at for the last time. An end that is about to be told looks the same,
    /// but not twice.
    before: HashSet<u64>,
    /// Found since then
    now: HashSet<u64>,
    /// So many have been looked at since then. The kernel goes through a map in the same order each time.
    looked_at: usize,
}

/// When to look, and for what.
#[derive(Debug)]
pub(super) struct Hidden {
    next: Instant,
    /// Something has happened since the last look, or is in doubt
    due: bool,
    loaded: bool,
    sockets: Suspects,
    pairs: Suspects,
    stopped: Suspects,
}

impl Hidden {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now() + TURN,
            due: false,
            loaded: false,
            sockets: Suspects::default(),
            pairs: Suspects::default(),
            stopped: Suspects::default(),
        }
    }

    /// Looks at all records if it is time to, or goes on with that. `active`: something has happened since
    /// the last call. Returns how long to wait until the next look; none if there is no need for one.
    pub(super) fn turn(&mut self, ebpf: &mut Ebpf, active: bool) -> Option<Duration> {
        self.due |= active;
        if !self.due {
            return None;
        }
        let begun = Instant::now();
        if begun >= self.next {
            let whole = self.look(ebpf, AT_MOST)
                & look::<PAIR_WORDS>(ebpf, STOPPED, &mut self.stopped, AT_MOST);
            let suspects = [&self.sockets, &self.pairs, &self.stopped];
            let in_doubt = suspects.iter().any(|suspects| !suspects.before.is_empty());
            self.due = !whole || in_doubt;
            let pause = if whole { TURN } else { SOON };
            self.next = begun + pause.max(begun.elapsed() * SHARE);
        }
        self.due
            .then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Looks at all records for the last time.
    pub(super) fn end(&mut self, ebpf: &mut Ebpf) {
        self.sockets.looked_at = 0;
        self.pairs.looked_at = 0;
        self.look(ebpf, AT_END);
        let suspects = [(SOCKS, &self.sockets), (PAIRS, &self.pairs)];
        let any = |(_, suspects): &(Kind, &Suspects)| {
            !suspects.before.is_empty() || !suspects.now.is_empty()
        };
        if !suspects.iter().any(any) {
            return;
        }
        std::thread::sleep(PATIENCE);
        for (kind, suspects) in suspects {
            let keys = suspects.before.iter().chain(&suspects.now).copied();
            for key in find(ebpf, kind, keys) {
                tell(ebpf, kind, key);
            }
        }
    }

    /// Tells of what is left when nothing is on the list of the program `watch` any more, and none is put
    /// there.
    pub(super) fn rest(&mut self, ebpf: &mut Ebpf) {
        self.stopped = Suspects::default();
        look::<PAIR_WORDS>(ebpf, STOPPED, &mut self.stopped, AT_END);
        for suspects in [&self.stopped.before, &self.stopped.now] {
            for key in suspects {
                tell(ebpf, STOPPED, *key);
            }
        }
    }

    /// Whether all have been looked at by now.
    fn look(&mut self, ebpf: &mut Ebpf, at_most: Duration) -> bool {
        if !self.loaded {
            let no_sockets = is_empty::<SOCK_WORDS>(ebpf, SOCKS);
            if no_sockets && is_empty::<PAIR_WORDS>(ebpf, PAIRS) {
                return true;
            }
            // Not before: at the start every millisecond and every file counts.
            self.loaded = true;
            for name in ["find_hidden", "tell_hidden"] {
                if let Err(why) = load_own(ebpf, name) {
                    log::debug!("{name}: {}", chain(&why));
                }
            }
        }
        look::<SOCK_WORDS>(ebpf, SOCKS, &mut self.sockets, at_most)
            & look::<PAIR_WORDS>(ebpf, PAIRS, &mut self.pairs, at_most)
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

/// Goes on looking at the records of a kind, and has those told of that were found the last time. Returns
/// whether all have been looked at.
fn look<const WORDS: usize>(
    ebpf: &Ebpf,
    kind: Kind,
    suspects: &mut Suspects,
    at_most: Duration,
) -> bool
where
    [u64; WORDS]: Pod,
{
    let Some(records) = records_of::<WORDS>(ebpf, kind) else {
        return true;
    };
    let begun = Instant::now();
    let mut whole = true;
    let mut looked_at = 0;
    let keys = records
        .keys()
        .flatten()
        .skip(suspects.looked_at)
        .take_while(|_| {
            whole = begun.elapsed() < at_most;
            looked_at += usize::from(whole);
            whole
        });
    for key in find(ebpf, kind, keys) {
        if suspects.before.remove(&key) {
            tell(ebpf, kind, key);
        } else {
            suspects.now.insert(key);
        }
    }
    if whole {
        suspects.looked_at = 0;
        suspects.before = std::mem::take(&mut suspects.now);
    } else {
        suspects.looked_at += looked_at;
    }
    whole
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
        let bits = run(ebpf, "find_hidden", &args).unwrap_or(0);
        if bits != 0 {
            let hidden = args[1..].iter().enumerate();
            found.extend(hidden.filter_map(|(at, key)| (bits >> at & 1 != 0).then_some(*key)));
        }
    }
}

/// Has the end told of that this record has not seen.
fn tell(ebpf: &Ebpf, kind: Kind, key: u64) {
    log::debug!("{} {key:x}: its end was hidden", kind.map);
    run(ebpf, "tell_hidden", &[kind.number, key]);
}
