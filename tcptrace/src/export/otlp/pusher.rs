//! The metrics to a receiver, from time to time.

use std::{
    sync::{
        PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::{deliver::Courier, metric};
use crate::{error::Error, export::prometheus::Shared};

/// Sends the metrics from a thread of its own.
pub struct Pusher {
    /// None once it is to end
    going: Option<Sender<()>>,
    done: Receiver<bool>,
}

impl Pusher {
    /// Starts the thread.
    pub fn start(
        metrics: Shared,
        mut courier: Courier,
        resource: Resource,
        interval: Duration,
    ) -> Result<Self, Error> {
        let (going, gone) = channel::<()>();
        let (ended, done) = channel();
        let push = move || {
            let begin_ns = now_ns();
            loop {
                let is_last = gone.recv_timeout(interval) != Err(RecvTimeoutError::Timeout);
                let copy = metrics
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                let now_ns = now_ns();
                let span = metric::Span { begin_ns, now_ns };
                let (request, points) = metric::encode(&copy.families(), &resource, span);
                // The next ones say all that these do.
                let until = (!is_last).then(|| Instant::now() + interval);
                let left = courier.deliver(request, points, until);
                if is_last {
                    // Nobody waits any more only when the process is about to end.
                    let _unheard = ended.send(left == 0);
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("tcptrace-push".to_owned())
            .spawn(push)
            .context("cannot start a thread")?;
        Ok(Self {
            going: Some(going),
            done,
        })
    }

    /// Has the last ones sent.
    pub fn end(&mut self) {
        self.going = None;
    }

    /// Waits until they are; whether they were taken.
    pub fn wait(&self, within: Duration) -> bool {
        self.done.recv_timeout(within).unwrap_or(false)
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
