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
    /// Skips before the second program was there to make up for them: of nobody's connections.
    /// None: it is not there yet.
    skipped_before: Option<u64>,
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
    /// Transitions that the kernel hid from both programs
    pub recursion: u64,
}

impl Counts {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            counters: take(ebpf, "COUNT")?,
            skipped_before: None,
        })
    }

    /// From now on the second program makes up for what the first one is skipped for.
    pub(super) fn begin(&mut self, ebpf: &Ebpf) {
        self.skipped_before = Some(recursion_misses(ebpf, "set_state").unwrap_or(0));
    }

    fn read(&self, index: u32) -> u64 {
        self.counters
            .get(&index, 0)
            .map(|per_cpu| per_cpu.iter().sum())
            .unwrap_or_default()
    }

    /// What is lost by now.
    pub fn losses(&self, ebpf: &Ebpf) -> Losses {
        // In this order: a transition that the kernel skips now and the second program has yet
        // to record must not be taken for a loss.
        let skipped = recursion_misses(ebpf, "set_state").unwrap_or(0);
        let rescued = self.read(count::RESCUED);
        let ours = |before| skipped.saturating_sub(before);
        Losses {
            ring_transitions: self.read(count::RING_FULL_TRANSITION),
            ring_accepts: self.read(count::RING_FULL_ACCEPT),
            ring_closes: self.read(count::RING_FULL_CLOSE),
            ring_pairs: self.read(count::RING_FULL_PAIR),
            ring_noted: self.read(count::RING_FULL_NOTED),
            map_full: self.read(count::MAP_FULL),
            map_pairs: self.read(count::PAIRS_FULL),
            recursion: self.skipped_before.map_or(0, ours).saturating_sub(rescued),
        }
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
