//! Where events come from: the kernel side, asked in time for everything that it does not send by itself.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tcptrace_common::config::EMIT_LISTENER;

use crate::{
    bpf::{Losses, Snapshot, Tracer, Woken},
    error::Error,
    kernel::{self, Kernel},
    recording::Recorder,
    settings::Settings,
};

/// How often listeners are looked at.
const LISTENERS_TURN: Duration = Duration::from_secs(1);

/// Records that are held in memory at the beginning: on a busy host the ring may never be empty.
const EARLY_MAX: usize = 65_536;

/// The kernel side, and the recording of what comes from it.
pub(super) struct Source {
    pub(super) tracer: Tracer,
    recorder: Option<Recorder>,
    wants_listeners: bool,
    /// What is still open at the end is reported
    wants_open: bool,
    /// Of that, also what was open before
    wants_former: bool,
    /// When listeners were last looked at
    listeners: Instant,
}

/// What there is to do after a read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    /// Something has to be looked at soon, whatever happens until then
    pub(super) soon: bool,
    /// When something has to be looked at; none: not before something happens
    after: Option<Duration>,
}

impl Due {
    /// At this time at the latest.
    pub(super) fn at_most(&mut self, after: Option<Duration>) {
        self.after = [self.after, after].into_iter().flatten().min();
    }
}

impl Source {
    pub(super) fn new(tracer: Tracer, settings: &Settings) -> Self {
        Self {
            tracer,
            recorder: None,
            wants_open: settings.records.open,
            wants_former: settings.records.former,
            wants_listeners: settings.records.emit & EMIT_LISTENER != 0,
            listeners: Instant::now(),
        }
    }

    /// Begins the recording, if one is wanted, and finds what is open.
    pub(super) fn begin(
        &mut self,
        settings: &Settings,
        kernel: &Kernel,
    ) -> Result<Snapshot, Error> {
        if let Some(path) = &settings.run.record_ring {
            let recorder = Recorder::create(path, kernel::wall_minus_mono_ns())
                .with_context(|| format!("failed to create {}", path.display()))?;
            self.recorder = Some(recorder);
        }
        let snapshot = self.tracer.snapshot(kernel)?;
        for (inode, why) in &snapshot.unseen {
            log::info!("connections open in network namespace {inode} are not listed: {why}");
        }
        self.tracer.look_for_connections()?;
        Ok(snapshot)
    }

    /// Hands on the records in the ring until `each` returns false; how many.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&[u8]) -> bool) -> usize {
        let Self {
            tracer, recorder, ..
        } = self;
        tracer.ring.drain(|bytes| {
            record(recorder, bytes);
            each(bytes)
        })
    }

    /// Adds a record of the snapshot to the recording.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        record(&mut self.recorder, bytes);
    }

    /// Has the kernel side do what it does only when it is asked. `active`: records have come.
    pub(super) fn ask(&mut self, active: bool) -> Due {
        self.tracer.flush_deferred(kernel::mono_ns());
        let time_waits = self.tracer.poll_time_wait();
        let soon = self.tracer.is_busy();
        let listeners = self.ask_listeners();
        let missed = self.tracer.search_stale(active);
        let slow = self.tracer.report_slow();
        Due {
            soon,
            after: [time_waits, listeners, missed, slow]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// Has listeners looked at when it is time to; how long until it is. None if nobody wants it.
    fn ask_listeners(&mut self) -> Option<Duration> {
        if !self.wants_listeners {
            return None;
        }
        if self.listeners.elapsed() >= LISTENERS_TURN {
            self.listeners = Instant::now();
            self.tracer.look_at_listeners();
        }
        Some(LISTENERS_TURN.saturating_sub(self.listeners.elapsed()))
    }

    /// What is lost by now.
    pub(super) fn losses(&mut self) -> Losses {
        self.tracer.losses()
    }

    /// The records that are in the ring now.
    pub(super) fn drain_to_memory(&mut self) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        let mut room = EARLY_MAX;
        self.drain(|record| {
            records.push(record.to_vec());
            room -= 1;
            room > 0
        });
        records
    }

    /// Sleeps until something happens or is due, `at_most` so long.
    pub(super) fn sleep(&mut self, due: Due, at_most: Option<Duration>) -> Woken {
        let losses = self.tracer.next_look_at_losses();
        self.tracer
            .sleep([due.after, losses, at_most].into_iter().flatten().min())
    }

    /// Waits as long as records may gather.
    pub(super) fn wait_a_turn(&mut self) -> Woken {
        self.tracer.ring.wait_a_turn()
    }

    /// What happened until now, and no more: the kernel side is detached, and `read` called until nothing
    /// is left, however busy the host is. It returns how many records there were, and whether to go on.
    /// Returns how many deferred steps nobody can report.
    pub(super) fn rest<T>(
        &mut self,
        state: &mut T,
        mut read: impl FnMut(&mut Self, &mut T) -> Result<(usize, bool), Error>,
    ) -> Result<u64, Error> {
        if self.wants_listeners {
            self.tracer.look_at_listeners();
        }
        while !self.tracer.search_all_stale() {
            let (_, goes_on) = read(self, state)?;
            if !goes_on {
                break;
            }
        }
        self.tracer.detach();
        let mut to_poll = None;
        let mut waiting = 0;
        loop {
            // What waits is sent a part at a time.
            let left = self.tracer.flush_all_deferred();
            to_poll = Some(self.tracer.poll_for_the_last_time(to_poll));
            let (records, goes_on) = read(self, state)?;
            let none_comes = left == 0 || left == waiting;
            let is_all = records == 0 && to_poll == Some(0) && none_comes;
            waiting = left;
            if is_all || !goes_on {
                self.wants_open &= goes_on;
                break;
            }
        }
        while self.wants_open {
            self.wants_open = !self.tracer.report_open(self.wants_former);
            let (_, goes_on) = read(self, state)?;
            self.wants_open &= goes_on;
        }
        Ok(waiting)
    }

    /// Nobody hears any more of what is still open.
    pub(super) fn forgo_open(&mut self) {
        self.wants_open = false;
    }

    /// Ends the recording.
    pub(super) fn end(&mut self) {
        if let Some(recorder) = self.recorder.take()
            && let Err(why) = recorder.finish()
        {
            log::warn!("the recording of the ring is not complete: {why}");
        }
    }
}

fn record(recorder: &mut Option<Recorder>, bytes: &[u8]) {
    if let Some(recording) = recorder
        && let Err(why) = recording.add(bytes)
    {
        log::warn!("the recording of the ring ends here: {why}");
        *recorder = None;
    }
}
