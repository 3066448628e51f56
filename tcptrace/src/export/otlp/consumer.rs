//! Records, as OTLP logs, to a receiver.

use std::time::{Duration, Instant};

use super::{config::Config, deliver::Courier, logs::Logs};
use crate::{
    error::Error,
    event::Event,
    sink::{End, Lost, Start},
    trace::{Consumer, Flow},
};

/// Gathers records, and delivers them together. It waits for the receiver: it belongs behind a queue.
pub struct OtlpLogs {
    logs: Logs,
    courier: Courier,
    /// How long records gather
    delay: Duration,
    /// How many do at most
    batch: usize,
    /// When the oldest came
    since: Option<Instant>,
    undelivered: u64,
}

impl OtlpLogs {
    /// Delivers by this courier.
    pub const fn new(logs: Logs, courier: Courier, config: &Config) -> Self {
        Self {
            logs,
            courier,
            delay: config.delay,
            batch: config.batch,
            since: None,
            undelivered: 0,
        }
    }

    fn deliver(&mut self) {
        self.since = None;
        if self.logs.is_empty() {
            return;
        }
        let (request, number) = self.logs.take();
        self.undelivered += self.courier.deliver(request, number, None);
    }

    fn added(&mut self) {
        self.since.get_or_insert_with(Instant::now);
        if self.logs.len() >= self.batch {
            self.deliver();
        }
    }
}

impl Consumer for OtlpLogs {
    fn name(&self) -> &'static str {
        "otlp"
    }

    fn start(&mut self, start: &Start) {
        self.logs.start(start);
        self.added();
    }

    fn begin_batch(&mut self, wall_minus_mono_ns: i64) {
        self.logs.set_clock(wall_minus_mono_ns);
    }

    fn event(&mut self, event: &Event) -> bool {
        self.logs.event(event);
        self.added();
        true
    }

    fn lost(&mut self, lost: &Lost) {
        self.logs.lost(lost);
        self.added();
    }

    fn end(&mut self, end: &End) {
        self.logs.end(end);
        self.added();
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        if self.due().is_some_and(|due| due <= Instant::now()) {
            self.deliver();
        }
        Ok(Flow::Open)
    }

    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + self.delay)
    }

    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.undelivered)
    }

    fn finish(&mut self, _within: Duration) -> u64 {
        // The courier knows until when.
        self.deliver();
        self.take_dropped()
    }
}
