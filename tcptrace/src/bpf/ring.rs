//! Reading the ring without a context switch per record.
//!
//! While records flow the agent sleeps by a timer and reads what has gathered. When a whole
//! turn brings nothing, it raises the `ASLEEP` flag and waits; the next record, or the next step
//! that is deferred, lowers the flag and wakes it at once.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use tcptrace_common::config::{
    BACKLOG_WORDS, POLL_QUEUED, POLL_STOPS, POLLS_PER_RUN, STOPS_PER_RUN,
};

use super::object::take;
use crate::error::Error;

/// How many steps are asked for in one turn. The ring fills meanwhile: asking for 12,000 at once
/// took 1.3 s.
const FLUSH_AT_ONCE: usize = 256;

/// How long a step may wait for its port before the kernel is asked.
const DEFERRED_NS: u64 = 20_000_000;

/// How many time-wait sockets are looked at in one turn.
const LOOKS_AT_ONCE: u64 = 1024;

const RING_TOKEN: u64 = 1;
const STOP_TOKEN: u64 = 2;
const HANGUP_TOKEN: u64 = 3;

/// The ring, and what it takes to sleep beside it.
pub struct Ring {
    /// How long records gather
    turn: Duration,
    events: RingBuf<MapData>,
    asleep: Array<MapData, u32>,
    pending: HashMap<MapData, u64, u64>,
    listeners: HashMap<MapData, u64, [u64; BACKLOG_WORDS]>,
    /// When steps were last asked for
    flushed_ns: u64,
    epoll: OwnedFd,
    stop: OwnedFd,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There is something to do
    Work,
    /// Time is up
    Time,
    /// The reader of our output is gone
    Hangup,
}

/// What a look at the list of time-wait sockets did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    /// At so many
    pub looks: u64,
    /// So many are not on it any more
    pub gone: u64,
}

/// Wakes a [`Ring`] from another thread.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    /// Ends the present or the next [`Ring::wait`].
    pub fn wake(&self) {
        // Full only after 2^64 - 1 wake-ups nobody has read.
        let _already_woken = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Ring {
    pub(super) fn new(ebpf: &mut Ebpf, turn: Duration) -> Result<Self, Error> {
        let ring = Self {
            turn,
            events: take(ebpf, "EVENTS")?,
            asleep: take(ebpf, "ASLEEP")?,
            pending: take(ebpf, "PENDING")?,
            listeners: take(ebpf, "BACKLOGS")?,
            flushed_ns: 0,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).map_err(anyhow::Error::new)?,
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(anyhow::Error::new)?,
        };
        // Edge-triggered: records that are submitted without a wake-up must not end the wait.
        let input = epoll::EventFlags::IN | epoll::EventFlags::ET;
        ring.watch(ring.events.as_fd(), RING_TOKEN, input)
            .map_err(anyhow::Error::new)?;
        ring.watch(ring.stop.as_fd(), STOP_TOKEN, input)
            .map_err(anyhow::Error::new)?;
        Ok(ring)
    }

    fn watch(
        &self,
        fd: BorrowedFd<'_>,
        token: u64,
        flags: epoll::EventFlags,
    ) -> rustix::io::Result<()> {
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags)
    }

    /// Ends waits when the other end of this pipe or terminal goes away.
    pub fn watch_hangup(&self, fd: BorrowedFd<'_>) {
        // Regular files and /dev/null cannot be watched, and never hang up.
        let _unwatched = self.watch(fd, HANGUP_TOKEN, epoll::EventFlags::ET);
    }

    /// A handle that ends waits from another thread.
    pub fn waker(&self) -> Result<Waker, Error> {
        Ok(Waker(self.stop.try_clone().map_err(anyhow::Error::new)?))
    }

    /// Hands every record that is there to `each`, until it returns false. Returns how many.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> usize {
        let mut records = 0;
        while let Some(item) = self.events.next() {
            records += 1;
            if !each(&item) {
                break;
            }
        }
        records
    }

    /// Waits for one turn, or until woken.
    pub fn wait_a_turn(&self) -> Woken {
        self.wait(Some(self.turn))
    }

    /// Waits until there is something to do, at most `timeout`. `due` tells whether something came
    /// that is no record.
    pub(super) fn sleep(&mut self, due: impl FnOnce() -> bool, timeout: Option<Duration>) -> Woken {
        if self.asleep.set(0, 1, 0).is_err() {
            return self.wait_a_turn();
        }
        // What came before the flag was up woke nobody: a record shows in the readiness, all else
        // in the counters.
        let mut ready = [PollFd::new(&self.events, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if due() || poll(&mut ready, Some(&now)).is_ok_and(|ready| ready > 0) {
            return Woken::Work;
        }
        self.wait(timeout)
    }

    fn wait(&self, timeout: Option<Duration>) -> Woken {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 3];
        // Interrupted by a signal: the caller looks and waits again.
        let Ok((woken, _rest)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else {
            return Woken::Work;
        };
        let by = |token| woken.iter().any(|event| event.data.u64() == token);
        if by(STOP_TOKEN) {
            let mut count = [0; 8];
            let _already_read = rustix::io::read(&self.stop, &mut count);
        }
        if by(HANGUP_TOKEN) {
            Woken::Hangup
        } else if woken.is_empty() {
            Woken::Time
        } else {
            Woken::Work
        }
    }

    /// Sends the steps that have waited too long for their port, if that can have happened since the
    /// last time: to go through them takes as long as the map has buckets.
    pub(super) fn flush_deferred(&mut self, ebpf: &Ebpf, now_ns: u64) {
        if now_ns.saturating_sub(self.flushed_ns) < DEFERRED_NS {
            return;
        }
        self.flushed_ns = now_ns;
        self.flush_deferred_since(ebpf, now_ns.saturating_sub(DEFERRED_NS));
    }

    /// Sends the steps that have waited since `latest_ns` or before, as many as a turn has time for.
    pub(super) fn flush_deferred_since(&self, ebpf: &Ebpf, latest_ns: u64) {
        for (key, since_ns) in self.pending.iter().flatten().take(FLUSH_AT_ONCE) {
            if since_ns <= latest_ns {
                run(ebpf, "flush", &[key]);
            }
        }
    }

    /// Poll once at each of the `watched` time-wait sockets on the list, as far as time allows: the
    /// others come first at the next look.
    pub(super) fn look(ebpf: &Ebpf, watched: u64) -> Looked {
        let looks = watched.min(LOOKS_AT_ONCE);
        let gone = (0..looks.div_ceil(POLLS_PER_RUN))
            .filter_map(|_| run(ebpf, "poll", &[POLL_QUEUED]))
            .map(u64::from)
            .sum();
        Looked { looks, gone }
    }

    /// Poll at that which these CPUs have stopped the timers of last. Returns of how many it is uncertain
    /// whether that was for good.
    pub(super) fn resolve_stops(ebpf: &Ebpf, cpus: u32) -> u32 {
        (0..cpus)
            .step_by(STOPS_PER_RUN as usize)
            .map(|first| run(ebpf, "poll", &[POLL_STOPS, first.into()]).unwrap_or(1))
            .sum()
    }

    /// Has each listener looked at.
    pub(super) fn look_at_listeners(&self, ebpf: &Ebpf) {
        for key in self.listeners.keys().flatten() {
            run(ebpf, "backlog", &[key]);
        }
    }
}

/// Runs a program once, with these arguments. Returns what it returns; none if it cannot be run.
pub(super) fn run(ebpf: &Ebpf, name: &str, args: &[u64]) -> Option<u32> {
    let Some(Ok(program)) = ebpf.program(name).map(<&RawTracePoint>::try_from) else {
        return None;
    };
    let mut options = RawTracePointRunOptions::new();
    for (place, arg) in options.args.iter_mut().zip(args) {
        *place = *arg;
    }
    program
        .test_run(options)
        .inspect_err(|why| log::debug!("{name}: {why}"))
        .map(|result| result.return_value)
        .ok()
}
