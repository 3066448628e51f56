//! `listen --interval`: looks again and again, while a trace of what is accepted goes on beside it.

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Seen,
    accepts::{Accepts, Tally},
    look, write,
};
use crate::{
    bpf::{self, Holders},
    cli::{Cli, KernelArgs},
    cmd::list::Lines,
    error::Error,
    inventory::socket::Socket,
    kernel::{self, Kernel, capability},
    settings::{Settings, listen::ListenSettings},
    sink::{
        list::Row,
        listen::{Listening, Since},
    },
    trace::{Control, Outputs, Reader},
};

/// Until a signal comes, the time is over, or nobody reads any more.
pub(super) fn run(
    settings: &ListenSettings,
    every: Duration,
    mut holders: Option<Holders>,
    lines: &mut Lines<'_>,
) -> Result<ExitCode, Error> {
    let accepts = Accepts::default();
    let trace = Trace::start(&settings.kernel, accepts.clone());
    if let Err(why) = &trace {
        log::warn!("what is accepted meanwhile is not seen: {why}");
    }
    let traced = trace.is_ok();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    let begin_ns = kernel::mono_ns();
    let looked = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::new)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::new)?;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let over = async {
            match settings.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        let mut before = Before {
            begin_ns,
            ..Before::default()
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = &mut over => return Ok(()),
                _ = ticks.tick() => {}
            }
            let seen = look(holders.as_mut())?;
            let tally = accepts.take();
            let mut all = seen.listening(settings);
            before.compare(&seen, &mut all, traced.then_some(&tally));
            if !write(settings, all, &seen.inventory, lines)? {
                return Ok(());
            }
        }
    });
    if let Ok(trace) = trace {
        trace.stop();
    }
    looked.map(|()| ExitCode::SUCCESS)
}

/// The last look.
#[derive(Default)]
struct Before {
    begin_ns: u64,
    mono_ns: Option<u64>,
    /// What each listener had dropped
    drops: HashMap<u64, u64>,
    /// When somebody last accepted, by the listener's id
    accepts: HashMap<u64, u64>,
    /// What each namespace had counted: overflows, SYN cookies
    counted: HashMap<u64, (Option<u64>, Option<u64>)>,
}

impl Before {
    /// Sets what has happened since the last look, and remembers this one.
    fn compare(&mut self, seen: &Seen, all: &mut [Listening<'_>], tally: Option<&Tally>) {
        let now_ns = seen.inventory.mono_ns;
        let us = self
            .mono_ns
            .map(|before| now_ns.saturating_sub(before) / 1000);
        let mut dropped_in: HashMap<u64, u32> = HashMap::new();
        let mut dropped = Vec::new();
        for listening in all.iter() {
            let id = id(listening);
            let drops = listening.drops().unwrap_or(0);
            let new = drops.saturating_sub(self.drops.get(&id).copied().unwrap_or(0));
            let new = if us.is_some() { new } else { 0 };
            if new > 0 {
                *dropped_in.entry(netns(listening)).or_default() += 1;
            }
            dropped.push(new);
            self.drops.insert(id, drops);
        }
        let sockets: Vec<(u64, Socket)> = all
            .iter()
            .filter_map(|one| Some((netns(one), *one.rows.first()?.socket)))
            .collect();
        for (listening, dropped) in all.iter_mut().zip(dropped) {
            let netns = netns(listening);
            let then = self.counted.get(&netns).copied().unwrap_or_default();
            let more = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
            // The namespace counts overflows for all of its listeners.
            let overflows = more(listening.knobs.overflows, then.0);
            let alone = dropped_in.get(&netns) == Some(&1) && dropped > 0;
            let accepted = tally.filter(|tally| tally.lost == 0).and_then(|tally| {
                let own = listening.rows.first()?.socket;
                Some(tally.of(netns, own, |local| {
                    let suits = |(other, socket): &(u64, Socket)| {
                        let may = *other == netns && socket.lport == own.lport;
                        may.then(|| socket.suits(local)).flatten()
                    };
                    let best = sockets.iter().filter_map(suits).max();
                    best.is_some() && own.suits(local) == best
                }))
            });
            let last_ns = self.accepts.entry(id(listening)).or_insert(self.begin_ns);
            if let Some(accepted) = &accepted {
                *last_ns = (*last_ns).max(accepted.last_ns);
            }
            let waiting = listening.rows.iter().map(|row| row.socket.recv_queue).max();
            listening.since = us.map(|us| Since {
                us,
                accepts: accepted.as_ref().map(|accepted| accepted.count),
                wait_us: accepted.as_ref().and_then(|accepted| {
                    Some((accepted.quantile_us(500)?, accepted.quantile_us(990)?))
                }),
                deepest: accepted
                    .as_ref()
                    .map(|accepted| accepted.deepest.max(waiting).unwrap_or(0)),
                not_accepted_us: accepted
                    .as_ref()
                    .map(|_| now_ns.saturating_sub(*last_ns) / 1000),
                dropped,
                overflowed: overflows.filter(|_| alone).map(|many| many.min(dropped)),
                cookies_sent: more(listening.knobs.cookies_sent, then.1),
            });
        }
        for listening in all.iter() {
            let knobs = listening.knobs;
            self.counted
                .insert(netns(listening), (knobs.overflows, knobs.cookies_sent));
        }
        self.mono_ns = Some(now_ns);
    }
}

fn id(listening: &Listening<'_>) -> u64 {
    listening.rows.first().map_or(0, |row| row.socket.cookie)
}

fn netns(listening: &Listening<'_>) -> u64 {
    listening.rows.first().map_or(0, Row::netns)
}

/// A trace of accept records, on a thread of its own.
struct Trace {
    control: Arc<Control>,
    waker: bpf::Waker,
    thread: thread::JoinHandle<()>,
}

impl Trace {
    fn start(limits: &KernelArgs, accepts: Accepts) -> Result<Self, Error> {
        let missing = capability::missing();
        if !missing.is_empty() {
            return Err(Error::CannotTrace(capability::how_to_give(&missing)));
        }
        kernel::files::allow()?;
        kernel::refuse_lockdown()?;
        // A trace as anybody would ask for it.
        let words = ["tcptrace", "--events", "accept", "--quiet"];
        let cli = Cli::try_parse_from(words).map_err(anyhow::Error::new)?;
        let mut trace = cli.trace;
        trace.kernel = limits.clone();
        let settings = Arc::new(Settings::new(trace)?);
        let max_sockets =
            kernel::memory::sockets(settings.run.max_sockets, settings.run.ring_bytes)?;
        let kernel = Kernel::look(&settings.kernel.btf)?;
        let tracer = bpf::start(&settings, &kernel, max_sockets)?;
        let waker = tracer.ring.waker()?;
        let control = Arc::<Control>::default();
        let outputs = Outputs::new(vec![Box::new(accepts)]);
        let mut reader = Reader::new(tracer, kernel, settings, outputs, Arc::clone(&control));
        let thread = thread::Builder::new()
            .name("tcptrace-ring".to_owned())
            .spawn(move || {
                if let Err(why) = reader.run() {
                    log::error!("what is accepted is not seen any more: {why}");
                }
            })
            .map_err(anyhow::Error::new)?;
        Ok(Self {
            control,
            waker,
            thread,
        })
    }

    fn stop(self) {
        self.control.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        let _panicked = self.thread.join();
    }
}
