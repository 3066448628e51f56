//! What takes the events of a trace: each output and each export is a consumer.

use std::time::{Duration, Instant};

use crate::{
    error::Error,
    event::Event,
    sink::{End, Lost, Start},
};

/// Takes what a trace reports. It is called from the loop's thread, or behind a [`super::Queued`] from a
/// thread of its own.
///
/// One consumer may block the loop, in [`Consumer::flush`]: the output that the accounting is about. The
/// kernel's ring then fills, and the kernel counts. Any other belongs behind a [`super::Queued`].
pub trait Consumer: Send {
    /// Its name in `lost` records
    fn name(&self) -> &'static str;

    /// The trace begins.
    fn start(&mut self, start: &Start);

    /// Events follow that were read together. `wall_minus_mono_ns`: the difference between the wall clock
    /// and `CLOCK_MONOTONIC`.
    fn begin_batch(&mut self, wall_minus_mono_ns: i64);

    /// An event. Returns whether there is room for another before [`Consumer::flush`].
    fn event(&mut self, event: &Event) -> bool;

    /// Records did not reach the reader.
    fn lost(&mut self, lost: &Lost);

    /// The trace ends.
    fn end(&mut self, end: &End);

    /// Hands on what has gathered.
    fn flush(&mut self) -> Result<Flow, Error>;

    /// Opens its file anew, after SIGHUP.
    fn reopen(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// When it wants [`Consumer::flush`] to be called, whether or not anything has come
    fn due(&self) -> Option<Instant> {
        None
    }

    /// How many events it had no room for since the last call.
    fn take_dropped(&mut self) -> u64 {
        0
    }

    /// Nothing comes any more, and what it has is to be delivered by then. All are told before any of them
    /// is waited for.
    fn finish_by(&mut self, _deadline: Instant) {}

    /// Delivers what it still has, for so long at most. Returns how many events are left.
    fn finish(&mut self, _within: Duration) -> u64 {
        0
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Yes
    Open,
    /// The reader is gone, which ends the trace
    Closed,
}

/// All consumers of a trace.
#[derive(Default)]
pub struct Outputs {
    consumers: Vec<Box<dyn Consumer>>,
}

impl Outputs {
    /// These.
    pub fn new(consumers: Vec<Box<dyn Consumer>>) -> Self {
        Self { consumers }
    }

    /// Calls each.
    pub(super) fn each(&mut self, mut what: impl FnMut(&mut dyn Consumer)) {
        for consumer in &mut self.consumers {
            what(&mut **consumer);
        }
    }

    /// Gives an event to all. Returns whether all have room for another.
    pub(super) fn event(&mut self, event: &Event) -> bool {
        // All are called, whatever one of them returns.
        self.consumers
            .iter_mut()
            .fold(true, |room, consumer| room & consumer.event(event))
    }

    /// Has all hand on what has gathered.
    pub(super) fn flush(&mut self) -> Result<Flow, Error> {
        let mut flow = Flow::Open;
        for consumer in &mut self.consumers {
            if consumer.flush()? == Flow::Closed {
                flow = Flow::Closed;
            }
        }
        Ok(flow)
    }

    /// Has all open their files anew.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        self.consumers
            .iter_mut()
            .try_for_each(|consumer| consumer.reopen())
    }
}
