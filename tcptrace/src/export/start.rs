//! From settings to consumers: everything that can be refused is, before anything is attached.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tcptrace_common::config::EMIT_TRANSITION;
use tokio::sync::watch;

use super::{
    Deadline,
    journald::Journald,
    metrics::{Heard, Metrics},
    otlp::{
        config::Config,
        consumer::OtlpLogs,
        deliver::Courier,
        logs::{self, Logs},
        metric,
        pusher::Pusher,
    },
    prometheus::{Server, Shared},
};
use crate::{
    error::Error,
    event::Event,
    kernel,
    settings::{Exports, Records},
    sink::{End, Lost, Start},
    trace::{Consumer, Flow, Queued},
};

/// The exports, with their ports taken and their certificates read.
pub struct Prepared {
    queue: usize,
    metrics: Option<Shared>,
    server: Option<Server>,
    otlp: Option<Otlp>,
    journald: Option<Journald>,
}

struct Otlp {
    config: Config,
    resource: Resource,
    explain: bool,
    deadline: watch::Sender<Deadline>,
    logs: Option<Courier>,
    metrics: Option<Courier>,
}

/// Takes ports, reads certificates, finds the journal. Starts nothing.
pub fn prepare(exports: &Exports, records: &Records) -> Result<Prepared, Error> {
    let metrics = exports.takes_metrics().then(|| {
        let heard = Heard {
            transitions: records.shows(EMIT_TRANSITION),
            sockets: records.sockets,
            max_label_values: exports.max_label_values,
        };
        Shared::new(Mutex::new(Metrics::new(heard)))
    });
    let server = match (exports.prometheus, &metrics) {
        (Some(address), Some(metrics)) => Some(Server::bind(address, Arc::clone(metrics))?),
        _ => None,
    };
    let otlp = exports
        .otlp
        .as_ref()
        .map(|config| otlp(config, records.explain))
        .transpose()?;
    let journald = exports
        .journald
        .then(|| Journald::connect(records.explain))
        .transpose()?;
    Ok(Prepared {
        queue: exports.queue,
        metrics,
        server,
        otlp,
        journald,
    })
}

fn otlp(config: &Config, explain: bool) -> Result<Otlp, Error> {
    let (deadline, told) = watch::channel(None);
    let courier = |what, endpoint: &Option<_>, rejected| {
        endpoint
            .as_ref()
            .map(|endpoint| Courier::new(what, endpoint, rejected, told.clone()))
            .transpose()
            .context("--otlp")
    };
    Ok(Otlp {
        resource: logs::resource(&kernel::host_name(), &kernel::release(), &config.resource),
        explain,
        logs: courier("--otlp: logs", &config.logs, logs::rejected)?,
        metrics: courier("--otlp: metrics", &config.metrics, metric::rejected)?,
        config: config.clone(),
        deadline,
    })
}

impl Prepared {
    /// Starts their threads, which have the rights of the thread that calls this.
    pub fn start(self) -> Result<Vec<Box<dyn Consumer>>, Error> {
        let Self {
            queue,
            metrics,
            server,
            otlp,
            journald,
        } = self;
        let mut consumers: Vec<Box<dyn Consumer>> = Vec::new();
        let ready = server.as_ref().map(Server::ready);
        if let Some(server) = server {
            log::info!(
                "--prometheus: serving at http://{}/metrics",
                server.address()
            );
            server.serve()?;
        }
        let mut pusher = None;
        let mut deadlines = None;
        if let Some(otlp) = otlp {
            if let Some(courier) = otlp.logs {
                let logs = Logs::new(otlp.resource.clone(), otlp.explain);
                let consumer = OtlpLogs::new(logs, courier, &otlp.config);
                consumers.push(Box::new(Export {
                    queued: Queued::new(Box::new(consumer), queue)?,
                    metrics: metrics.clone(),
                    deadline: Some(otlp.deadline.clone()),
                }));
            }
            if let (Some(courier), Some(metrics)) = (otlp.metrics, &metrics) {
                let interval = otlp.config.interval;
                let metrics = Arc::clone(metrics);
                pusher = Some(Pusher::start(metrics, courier, otlp.resource, interval)?);
            }
            deadlines = Some(otlp.deadline);
        }
        if let Some(journald) = journald {
            consumers.push(Box::new(Export {
                queued: Queued::new(Box::new(journald), queue)?,
                metrics: metrics.clone(),
                deadline: None,
            }));
        }
        // The last one: what the others have dropped is counted by then.
        if let Some(metrics) = metrics {
            consumers.push(Box::new(Counter {
                metrics,
                ready,
                pusher,
                deadlines,
            }));
        }
        Ok(consumers)
    }
}

/// A consumer behind a queue, what it drops counted among the metrics.
struct Export {
    queued: Queued,
    metrics: Option<Shared>,
    deadline: Option<watch::Sender<Deadline>>,
}

/// Beyond the deadline, to notice that it has passed.
const NOTICE: Duration = Duration::from_millis(250);

fn locked(metrics: &Shared) -> MutexGuard<'_, Metrics> {
    metrics.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Consumer for Export {
    fn name(&self) -> &'static str {
        self.queued.name()
    }

    fn start(&mut self, start: &Start) {
        self.queued.start(start);
    }

    fn begin_batch(&mut self, wall_minus_mono_ns: i64) {
        self.queued.begin_batch(wall_minus_mono_ns);
    }

    fn event(&mut self, event: &Event) -> bool {
        self.queued.event(event)
    }

    fn lost(&mut self, lost: &Lost) {
        self.queued.lost(lost);
    }

    fn end(&mut self, end: &End) {
        self.queued.end(end);
    }

    fn flush(&mut self) -> Result<Flow, Error> {
        self.queued.flush()
    }

    fn take_dropped(&mut self) -> u64 {
        let dropped = self.queued.take_dropped();
        if let (Some(metrics), 1..) = (&self.metrics, dropped) {
            locked(metrics).dropped(self.queued.name(), dropped);
        }
        dropped
    }

    fn finish_by(&mut self, deadline: Instant) {
        if let Some(told) = &self.deadline {
            told.send_replace(Some(deadline));
        }
        self.queued.finish_by(deadline);
    }

    fn finish(&mut self, within: Duration) -> u64 {
        let left = self.queued.finish(within + NOTICE);
        if let (Some(metrics), 1..) = (&self.metrics, left) {
            locked(metrics).dropped(self.queued.name(), left);
        }
        left
    }
}

/// Counts for the metrics. It waits for nobody, and so needs no queue.
struct Counter {
    metrics: Shared,
    ready: Option<Arc<AtomicBool>>,
    pusher: Option<Pusher>,
    deadlines: Option<watch::Sender<Deadline>>,
}

impl Consumer for Counter {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn start(&mut self, _start: &Start) {
        if let Some(ready) = &self.ready {
            ready.store(true, Ordering::Release);
        }
    }

    fn begin_batch(&mut self, _wall_minus_mono_ns: i64) {}

    fn event(&mut self, event: &Event) -> bool {
        locked(&self.metrics).event(event);
        true
    }

    fn lost(&mut self, lost: &Lost) {
        locked(&self.metrics).lost(lost);
    }

    fn end(&mut self, _end: &End) {}

    fn flush(&mut self) -> Result<Flow, Error> {
        Ok(Flow::Open)
    }

    fn finish_by(&mut self, deadline: Instant) {
        if let Some(told) = &self.deadlines {
            told.send_replace(Some(deadline));
        }
    }

    fn finish(&mut self, within: Duration) -> u64 {
        if let Some(pusher) = &mut self.pusher {
            pusher.end();
            if !pusher.wait(within + NOTICE) {
                log::warn!("--otlp: the last metrics were not delivered");
            }
        }
        0
    }
}
