//! What the kernel side could not deliver, per cause.

use std::{
    os::fd::{AsFd as _, AsRawFd as _},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use tcptrace_common::{
    config::{EMIT_RESET, EMIT_RETRANSMIT},
    count::{self, COUNTS},
};

use super::object::take;
use crate::{error::Error, kernel::field};

/// Reads the kernel's counters.
pub struct Counts {
    counters: PerCpuArray<MapData, [u64; COUNTS]>,
    skips: Skips,
    accepts: Missed,
    noted: Missed,
}

/// Programs that nothing stands in for: each run that the kernel skips is a record that is missing.
struct Missed {
    programs: Vec<&'static str>,
    /// So many before the trace
    before: u64,
    now: u64,
    looked_ns: u64,
}

impl Missed {
    /// Of those that are loaded.
    fn new(ebpf: &Ebpf, programs: &[&'static str]) -> Self {
        let loaded = |name: &&str| recursion_misses(ebpf, name).is_some();
        let programs: Vec<_> = programs.iter().copied().filter(loaded).collect();
        let before = all_misses(ebpf, &programs);
        Self {
            programs,
            before,
            now: before,
            looked_ns: 0,
        }
    }

    /// Asks seldom: it takes as long as ten other looks.
    fn count(&mut self, ebpf: &Ebpf, now_ns: u64, at_once: bool) -> u64 {
        if at_once || now_ns.saturating_sub(self.looked_ns) >= MISSING_NS {
            self.looked_ns = now_ns;
            // What cannot be read now counts as much as it did.
            self.now = self.now.max(all_misses(ebpf, &self.programs));
        }
        self.now.saturating_sub(self.before)
    }
}

fn all_misses(ebpf: &Ebpf, programs: &[&str]) -> u64 {
    let misses = |name: &&str| recursion_misses(ebpf, name);
    programs.iter().filter_map(misses).sum()
}

/// One kind of these is loaded.
const ACCEPTS: [&str; 7] = [
    "accept_fentry_inet",
    "accept_fentry_graft",
    "accept_kprobe_inet",
    "accept_kprobe_graft",
    "accept_kretprobe",
    "accept_exit",
    "accept4_exit",
];
/// These make records of these kinds.
const NOTERS: [(u8, &str); 3] = [
    (EMIT_RESET, "reset_sent"),
    (EMIT_RESET, "reset_received"),
    (EMIT_RETRANSMIT, "retransmit"),
];

/// For how long something is missing whenever it is looked for, until it is lost. A task that is
/// preempted between the two programs has both its skip and its fallback counted once it has gone on.
const MISSING_NS: u64 = 1_000_000_000;

/// So often is it looked, before the second program may be called alone, for a moment when nothing is
/// on its way, and so long apart.
const SETTLING_LOOKS: u32 = 50;
const SETTLING_PAUSE: Duration = Duration::from_millis(1);

/// What became of the transitions that the kernel skipped the first program for.
#[derive(Debug, Default)]
struct Skips {
    /// Skips before the second program was there to make up for them: of nobody's connections.
    /// None: it is not there yet.
    skipped_before: Option<u64>,
    /// Those that the second program made up for, at the same time
    caught_before: u64,
    /// Lost until then
    lost_before: u64,
    /// The difference when it was last looked at
    open: u64,
    /// The least of them since `since_ns`
    least: u64,
    since_ns: u64,
    /// Lost since `lost_before`, as far as it is certain
    certain: u64,
    /// Nothing is in the middle of being caught any more
    ended: bool,
}

impl Skips {
    /// What is lost at `now_ns`, from how often the first was skipped and how often that was made up
    /// for. Until the end some of the difference may be on its way: only what was missing at each look
    /// for a while is lost.
    fn lost(&mut self, counted: [u64; 2], now_ns: u64) -> u64 {
        self.open = self.missing(counted);
        self.least = self.least.min(self.open);
        if self.ended {
            self.certain = self.certain.max(self.open);
        } else if now_ns.saturating_sub(self.since_ns) >= MISSING_NS {
            self.certain = self.certain.max(self.least);
            self.least = self.open;
            self.since_ns = now_ns;
        }
        self.lost_before + self.certain
    }

    /// Skips that nothing has made up for yet.
    fn missing(&self, [skipped, caught]: [u64; 2]) -> u64 {
        let since = |before| skipped.saturating_sub(before);
        let caught = caught.saturating_sub(self.caught_before);
        self.skipped_before.map_or(0, since).saturating_sub(caught)
    }

    /// Counts anew from here, so that what the second program makes up for from now on is not set
    /// off against what is lost by now: rather one too many that is on its way than one too few.
    fn settle(&mut self, [skipped, caught]: [u64; 2], now_ns: u64) {
        self.lost([skipped, caught], now_ns);
        *self = Self {
            skipped_before: self.skipped_before.and(Some(skipped)),
            caught_before: caught,
            lost_before: self.lost_before + self.certain.max(self.open),
            since_ns: now_ns,
            ..Self::default()
        };
    }
}

/// Losses since tracing began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Transitions that found the ring full
    pub ring_transitions: u64,
    /// Accept records that found the ring full
    pub ring_accepts: u64,
    /// Closing totals that found the ring full
    pub ring_closes: u64,
    /// Ends of `TIME_WAIT` that found the ring full
    pub ring_time_waits: u64,
    /// Other records that found the ring full
    pub ring_details: u64,
    /// Transitions of sockets that found no room for their record
    pub map_full: u64,
    /// Ends of `TIME_WAIT` of pairs that found no room for their record
    pub map_pairs: u64,
    /// Transitions that the kernel hid from all programs, and what they left untold
    pub recursion: u64,
    /// Connections that somebody has accepted, and nothing proves who
    pub overlooked: u64,
    /// Accepts that it hid
    pub recursion_accepts: u64,
    /// Other records that are missing because of it
    pub recursion_details: u64,
}

impl Losses {
    /// As if since `before` all had found room in the ring.
    #[must_use]
    pub const fn with_ring_of(self, before: &Self) -> Self {
        Self {
            ring_transitions: before.ring_transitions,
            ring_accepts: before.ring_accepts,
            ring_closes: before.ring_closes,
            ring_time_waits: before.ring_time_waits,
            ring_details: before.ring_details,
            ..self
        }
    }
}

impl Counts {
    /// Everything but what brings states is attached. `emit`: the records wanted.
    pub(super) fn new(ebpf: &mut Ebpf, emit: u8) -> Result<Self, Error> {
        let noters: Vec<_> = NOTERS
            .iter()
            .filter(|(kind, _)| emit & kind != 0)
            .map(|(_, program)| *program)
            .collect();
        Ok(Self {
            counters: take(ebpf, "COUNT")?,
            skips: Skips::default(),
            accepts: Missed::new(ebpf, &ACCEPTS),
            noted: Missed::new(ebpf, &noters),
        })
    }

    /// From now on the second program makes up for what the first one is skipped for.
    pub(super) fn begin(&mut self, ebpf: &Ebpf) {
        let [skipped, caught] = self.skipped(ebpf);
        self.skips.skipped_before = Some(skipped);
        self.skips.caught_before = caught;
    }

    /// Whether the kernel lets us read them.
    pub(super) fn answers(&self) -> bool {
        self.counters.get(&0, 0).is_ok()
    }

    /// All counters, of all processors.
    fn read(&self) -> [u64; COUNTS] {
        let mut sums = [0; COUNTS];
        if let Ok(per_cpu) = self.counters.get(&0, 0) {
            for counters in per_cpu.iter() {
                for (sum, counter) in sums.iter_mut().zip(counters) {
                    *sum += counter;
                }
            }
        }
        sums
    }

    /// What is lost at `now_ns` (`CLOCK_MONOTONIC`).
    pub fn losses(&mut self, ebpf: &Ebpf, now_ns: u64) -> Losses {
        let recursion = self.skips.lost(self.skipped(ebpf), now_ns);
        let counted = self.read();
        Losses {
            ring_transitions: counted[count::RING_FULL_TRANSITION],
            ring_accepts: counted[count::RING_FULL_ACCEPT],
            ring_closes: counted[count::RING_FULL_CLOSE],
            ring_time_waits: counted[count::RING_FULL_TIME_WAIT],
            ring_details: counted[count::RING_FULL_DETAIL],
            map_full: counted[count::MAP_FULL],
            map_pairs: counted[count::PAIRS_FULL],
            // What was skipped is among both; what the kernel ran no program for, and did not count,
            // only among what is evidently missing.
            recursion: recursion.max(counted[count::UNSEEN]) + counted[count::UNTOLD],
            overlooked: counted[count::OVERLOOKED],
            recursion_accepts: self.accepts.count(ebpf, now_ns, self.skips.ended),
            recursion_details: self.noted.count(ebpf, now_ns, self.skips.ended),
        }
    }

    /// When to look again at the latest: what is missing may turn out to be lost.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let in_doubt = self.skips.open > self.skips.certain;
        in_doubt.then_some(Duration::from_nanos(MISSING_NS))
    }

    /// The second program is about to be called alone: what is lost by now stays lost.
    pub(super) fn settle(&mut self, ebpf: &Ebpf, now_ns: u64) {
        let mut best = self.skipped(ebpf);
        for _ in 0..SETTLING_LOOKS {
            if self.skips.missing(best) <= self.skips.certain {
                break;
            }
            thread::sleep(SETTLING_PAUSE);
            let next = self.skipped(ebpf);
            if self.skips.missing(next) <= self.skips.missing(best) {
                best = next;
            }
        }
        self.skips.settle(best, now_ns);
    }

    /// No program runs any more.
    pub(super) fn end(&mut self) {
        self.skips.ended = true;
    }

    /// How often the first program was skipped, and how often the second made up for it; read in
    /// this order, so that little of what is on its way is missing.
    fn skipped(&self, ebpf: &Ebpf) -> [u64; 2] {
        let skipped = recursion_misses(ebpf, "set_state").unwrap_or(0);
        [skipped, self.read()[count::FALLBACK]]
    }

    /// What found no room in a map so far, of which no record tells.
    pub(super) fn without_room(&self) -> u64 {
        let counted = self.read();
        counted[count::MAP_FULL] + counted[count::PAIRS_FULL]
    }

    /// Ends of `TIME_WAIT` that were told by somebody else, or by nobody, and what may be such ends.
    pub(super) fn unclaimed(&self) -> u64 {
        self.read()[count::UNCLAIMED]
    }

    /// What is in the middle of something. What ends while it is counted may be among it; nothing else is
    /// missing.
    pub(super) fn open(&self) -> Open {
        let ended = self.read();
        let begun = self.read();
        let open = |begins: usize, ends: usize| begun[begins].saturating_sub(ended[ends]);
        Open {
            deferred: open(count::DEFERRED, count::DEFERRED_SENT),
            unlisted: open(count::UNLISTED, count::UNLISTED_SENT),
            watched: open(count::POLL_ADDED, count::POLL_REMOVED),
            stopped: ended[count::STOPPED],
        }
    }
}

/// What is in the middle of something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// Deferred steps that have not been sent yet
    pub deferred: u64,
    /// Those that found no room to wait: they come with the next transition, or never
    pub unlisted: u64,
    /// Time-wait sockets on the list of those to look at
    pub watched: u64,
    /// How often until now the timer of a time-wait socket was stopped, for good or to be set anew
    pub stopped: u64,
}

/// How often the kernel skipped a program because it was already running on that CPU;
/// none before 5.12, which does not tell.
fn recursion_misses(ebpf: &Ebpf, name: &str) -> Option<u64> {
    let fd = ebpf.program(name)?.fd().ok()?.as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    field::decimal(&info, "recursion_misses:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Skips {
        Skips {
            skipped_before: Some(10),
            ..Skips::default()
        }
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let mut skips = begun();
        assert_eq!(
            skips.lost([15, 4], 5000 * MS),
            0,
            "missing for the first time"
        );
        assert_eq!(skips.lost([15, 4], 5000 * MS + 1), 0, "at the same moment");
        assert_eq!(skips.lost([17, 7], 5900 * MS), 0);
        assert_eq!(skips.lost([20, 9], 6100 * MS), 0, "another");
        assert_eq!(skips.lost([20, 9], 7200 * MS), 1, "still missing");
        assert_eq!(skips.lost([22, 9], 7300 * MS), 1, "and more, now");
        assert_eq!(skips.lost([22, 11], 8300 * MS), 1);
        assert_eq!(skips.lost([23, 12], 9400 * MS), 1);
    }

    #[test]
    fn nothing_is_on_its_way_after_the_end() {
        let mut skips = begun();
        skips.ended = true;
        assert_eq!(skips.lost([15, 4], 1), 1);
    }

    #[test]
    fn what_is_lost_is_not_set_off_against_what_the_second_program_sees_alone() {
        let mut skips = begun();
        skips.settle([15, 3], 1);
        skips.ended = true;
        assert_eq!(skips.lost([15, 400], 2), 2);
        assert_eq!(skips.lost([16, 3], 3), 3);
    }

    #[test]
    fn before_the_second_program_nothing_is_lost() {
        let mut skips = Skips::default();
        skips.settle([15, 0], 1);
        skips.ended = true;
        assert_eq!(skips.lost([20, 0], 2), 0);
    }
}
