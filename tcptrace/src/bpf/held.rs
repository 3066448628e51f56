//! Steps that the kernel side holds in the records of their sockets: when it is to, and having those
//! sent that nothing else has brought out.

use std::time::{Duration, Instant};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use tcptrace_common::config::{HELD_PER_RUN, HINT_ROWS, HINTS_IN_ROW, HOLDING_ANY, HOLDING_ON};

use super::{object::take, ring::run};
use crate::error::Error;

/// How long a step is held at least, if its connection does not end before.
const HELD_NS: u64 = 10_000_000;

/// So many events make it worth while, in a time of [`PACE`].
const BUSY_EVENTS: u64 = 256;
/// So few, and it is not any more.
const QUIET_EVENTS: u64 = 64;
/// For how long events are counted; and how long it is from one look at what is held to the next, while
/// steps are held that could be sent.
const PACE: Duration = Duration::from_millis(20);

/// The agent's part in holding steps.
pub(super) struct Held {
    hints: Array<MapData, [u64; HINTS_IN_ROW]>,
    holding: Array<MapData, u32>,
    /// Whether the kernel side holds what it could send
    on: bool,
    /// Events since then
    events: u64,
    since: Instant,
    /// Sockets of which something was held when it was last looked, in the order of their addresses
    seen: Vec<u64>,
    looked: Instant,
    /// Those of which something stays, and no hint tells
    left: Vec<u64>,
}

impl Held {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            hints: take(ebpf, "HINTS")?,
            holding: take(ebpf, "HOLDING")?,
            on: false,
            events: 0,
            since: Instant::now(),
            seen: Vec::new(),
            looked: Instant::now(),
            left: Vec::new(),
        })
    }

    /// Has the kernel side hold steps while there are many, after so many events more.
    pub(super) fn keep_pace(&mut self, events: u64) {
        self.events += events;
        if self.since.elapsed() < PACE {
            return;
        }
        let limit = if self.on { QUIET_EVENTS } else { BUSY_EVENTS };
        self.set(self.events >= limit);
        self.events = 0;
        self.since = Instant::now();
    }

    /// Whether the kernel side is to hold what it could send.
    pub(super) fn set(&mut self, on: bool) {
        if on != self.on && self.holding.set(HOLDING_ON, u32::from(on), 0).is_ok() {
            self.on = on;
        }
    }

    /// Whether anything may be held.
    pub(super) fn is_any(&self) -> bool {
        self.on || !self.seen.is_empty() || !self.left.is_empty() || self.has_begun()
    }

    /// Whether anything has been held since it was last looked.
    pub(super) fn has_begun(&self) -> bool {
        self.holding
            .get(&HOLDING_ANY, 0)
            .is_ok_and(|begun| begun != 0)
    }

    /// Has those sent that are held for a while at `now_ns`.
    pub(super) fn turn(&mut self, ebpf: &Ebpf, now_ns: u64) {
        if self.on && self.looked.elapsed() < PACE {
            return;
        }
        let before = std::mem::take(&mut self.seen);
        self.look();
        let mut asked = std::mem::take(&mut self.left);
        // Most come and go from one look to the next.
        let stays = |key: &&u64| before.binary_search(key).is_ok();
        asked.extend(self.seen.iter().filter(stays));
        self.send(ebpf, &asked, now_ns.saturating_sub(HELD_NS));
    }

    /// Has everything sent. Returns of how many sockets something stays.
    pub(super) fn send_all(&mut self, ebpf: &Ebpf) -> u64 {
        self.look();
        let seen = std::mem::take(&mut self.seen);
        let asked: Vec<u64> = self.left.drain(..).chain(seen).collect();
        self.send(ebpf, &asked, u64::MAX);
        u64::try_from(self.left.len()).unwrap_or(u64::MAX)
    }

    fn look(&mut self) {
        self.looked = Instant::now();
        if let Err(why) = self.holding.set(HOLDING_ANY, 0, 0) {
            log::debug!("what is held: {why}");
        }
        for row in 0..HINT_ROWS {
            match self.hints.get(&row, 0) {
                Ok(keys) => {
                    // Most of it is empty, and looked at eight words at a time.
                    let any = keys
                        .as_chunks::<8>()
                        .0
                        .iter()
                        .filter(|keys| **keys != [0; 8]);
                    self.seen.extend(any.flatten().filter(|key| **key != 0));
                }
                Err(why) => log::debug!("what is held: {why}"),
            }
        }
        self.seen.sort_unstable();
    }

    fn send(&mut self, ebpf: &Ebpf, keys: &[u64], latest_ns: u64) {
        for keys in keys.chunks(HELD_PER_RUN) {
            let mut args = [0; HELD_PER_RUN + 1];
            args[0] = latest_ns;
            args[1..=keys.len()].copy_from_slice(keys);
            // Of a run that fails, all stay.
            let left = run(ebpf, "send_held", &args).unwrap_or(u32::MAX);
            let stays = |(at, key): (usize, &u64)| (left >> at & 1 != 0).then_some(*key);
            self.left.extend(keys.iter().enumerate().filter_map(stays));
        }
    }
}
