//! What the kernel side could not deliver, per cause.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
    programs::BtfTracePoint,
};
use tcptrace_common::count;

use super::object::take;
use crate::{error::Error, kernel::field};

/// Reads the kernel's counters.
pub struct Counts {
    counters: PerCpuArray<MapData, u64>,
    skips: Skips,
}

/// What became of the transitions that the kernel skipped the first program for.
#[derive(Debug, Default)]
struct Skips {
    /// Skips before the second program was there to make up for them: of nobody's connections.
    /// None: it is not there yet.
    skipped_before: Option<u64>,
    /// Those that the second program made up for, at the same time
    rescued_before: u64,
    /// Lost until then
    lost_before: u64,
    /// The difference when it was last looked at
    open: u64,
    /// Nothing is in the middle of being rescued any more
    ended: bool,
}

impl Skips {
    /// What is lost, from both counters. Until the end some of the difference may be on its way:
    /// only what was missing the last time as well is lost.
    fn lost(&mut self, skipped: u64, rescued: u64) -> u64 {
        let since = |before| skipped.saturating_sub(before);
        let rescued = rescued.saturating_sub(self.rescued_before);
        let open = self.skipped_before.map_or(0, since).saturating_sub(rescued);
        let before = std::mem::replace(&mut self.open, open);
        let lost = if self.ended { open } else { open.min(before) };
        self.lost_before + lost
    }

    /// Counts anew from here, so that what the second program makes up for from now on is not set
    /// off against what is lost by now: rather one too many that is on its way than one too few.
    fn settle(&mut self, skipped: u64, rescued: u64) {
        self.lost(skipped, rescued);
        self.lost_before += self.open;
        self.skipped_before = self.skipped_before.and(Some(skipped));
        self.rescued_before = rescued;
        self.open = 0;
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
    pub ring_pairs: u64,
    /// Other records that found the ring full
    pub ring_noted: u64,
    /// Transitions of sockets that found no room for their record
    pub map_full: u64,
    /// Ends of `TIME_WAIT` of pairs that found no room for their record
    pub map_pairs: u64,
    /// Transitions that the kernel hid from all programs, and what they left untold
    pub recursion: u64,
}

impl Counts {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            counters: take(ebpf, "COUNT")?,
            skips: Skips::default(),
        })
    }

    /// From now on the second program makes up for what the first one is skipped for.
    pub(super) fn begin(&mut self, ebpf: &Ebpf) {
        let (skipped, rescued) = self.skipped(ebpf);
        self.skips.skipped_before = Some(skipped);
        self.skips.rescued_before = rescued;
    }

    fn read(&self, index: u32) -> u64 {
        self.counters
            .get(&index, 0)
            .map(|per_cpu| per_cpu.iter().sum())
            .unwrap_or_default()
    }

    /// What is lost by now.
    pub fn losses(&mut self, ebpf: &Ebpf) -> Losses {
        let (skipped, rescued) = self.skipped(ebpf);
        let recursion = self.skips.lost(skipped, rescued);
        Losses {
            ring_transitions: self.read(count::RING_FULL_TRANSITION),
            ring_accepts: self.read(count::RING_FULL_ACCEPT),
            ring_closes: self.read(count::RING_FULL_CLOSE),
            ring_pairs: self.read(count::RING_FULL_PAIR),
            ring_noted: self.read(count::RING_FULL_NOTED),
            map_full: self.read(count::MAP_FULL),
            map_pairs: self.read(count::PAIRS_FULL),
            recursion: recursion + self.read(count::UNTOLD),
        }
    }

    /// The second program is about to be called alone: what is lost by now stays lost.
    pub(super) fn settle(&mut self, ebpf: &Ebpf) {
        let (skipped, rescued) = self.skipped(ebpf);
        self.skips.settle(skipped, rescued);
    }

    /// No program runs any more.
    pub(super) fn end(&mut self) {
        self.skips.ended = true;
    }

    /// How often the first program was skipped, and how often the second made up for it; read in
    /// this order, so that little of what is on its way is missing.
    fn skipped(&self, ebpf: &Ebpf) -> (u64, u64) {
        let skipped = recursion_misses(ebpf, "set_state").unwrap_or(0);
        (skipped, self.read(count::RESCUED))
    }

    /// Steps held back that found no room to wait: they come with the next transition, or never.
    pub fn unlisted(&self) -> u64 {
        let sent = self.read(count::UNLISTED_SENT);
        self.read(count::UNLISTED).saturating_sub(sent)
    }

    /// Time-wait sockets on the list of those to look at.
    pub fn watched(&self) -> u64 {
        let gone = self.read(count::UNWATCHED);
        self.read(count::WATCHED).saturating_sub(gone)
    }

    /// Steps held back that have not been sent yet.
    pub fn held(&self) -> u64 {
        let released = self.read(count::RELEASED);
        self.read(count::HELD).saturating_sub(released)
    }
}

/// How often the kernel skipped a program because it was already running on that CPU;
/// none before 5.12, which does not tell.
fn recursion_misses(ebpf: &Ebpf, name: &str) -> Option<u64> {
    let program = <&BtfTracePoint>::try_from(ebpf.program(name)?).ok()?;
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
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

    #[test]
    fn what_is_on_its_way_is_not_lost() {
        let mut skips = begun();
        assert_eq!(skips.lost(15, 4), 0, "missing for the first time");
        assert_eq!(skips.lost(17, 7), 0);
        assert_eq!(skips.lost(20, 8), 0, "another");
        assert_eq!(skips.lost(20, 9), 1, "still missing");
    }

    #[test]
    fn nothing_is_on_its_way_after_the_end() {
        let mut skips = begun();
        skips.ended = true;
        assert_eq!(skips.lost(15, 4), 1);
    }

    #[test]
    fn what_is_lost_is_not_set_off_against_what_the_second_program_sees_alone() {
        let mut skips = begun();
        skips.settle(15, 3);
        skips.ended = true;
        assert_eq!(skips.lost(15, 400), 2);
        assert_eq!(skips.lost(16, 3), 3);
    }

    #[test]
    fn before_the_second_program_nothing_is_lost() {
        let mut skips = Skips::default();
        skips.settle(15, 0);
        skips.ended = true;
        assert_eq!(skips.lost(20, 0), 0);
    }
}
