//! What comes from outside the loop: signals, and the end of the duration.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{Asked, Control, Reader, Totals, child::Child, running::Running};
use crate::{bpf, error::Error, kernel::field, privileges::Fence, settings::Settings};

/// The trace is over.
#[derive(Debug)]
pub struct Supervised {
    /// What came of it
    pub totals: Totals,
    /// The loop's thread, which ends when all is detached
    pub ring_thread: JoinHandle<()>,
    /// The exit status of the command behind `--`, if there was one
    pub status: Option<u8>,
}

/// How often the kernel side's own messages are read, with `-v`.
const LOG_TURN: Duration = Duration::from_millis(100);

/// What SIGHUP means.
#[derive(Clone, Copy)]
enum OnHangup {
    /// Somebody moved the output file away
    Reopen,
    /// The terminal is gone
    Stop,
    /// We were started to outlive it
    Ignore,
}

impl OnHangup {
    /// Ask it before handlers are installed.
    fn new(settings: &Settings) -> Self {
        match settings.output {
            Some(_) => Self::Reopen,
            None if hangup_ignored() => Self::Ignore,
            None => Self::Stop,
        }
    }
}

/// The signals that steer a trace.
pub struct Signals {
    on_hangup: OnHangup,
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
    hangup: Signal,
    /// Without a handler it ends the process in the middle of a line; with one, the write fails
    _file_too_large: Signal,
}

impl Signals {
    /// Call it within a runtime. From here on a signal ends the trace, and in order.
    pub fn watch(settings: &Settings) -> Result<Self, Error> {
        let on_hangup = OnHangup::new(settings);
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self {
            on_hangup,
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
            hangup: watch(SignalKind::hangup())?,
            _file_too_large: watch(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }
}

/// Whether SIGHUP was ignored when we were started, as `nohup` does.
fn hangup_ignored() -> bool {
    const SIGHUP_BIT: u64 = 1;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| field::hex(&status, "SigIgn:"))
        .is_some_and(|ignored| ignored & SIGHUP_BIT != 0)
}

/// Passes on what comes from outside the loop: signals, the end of the duration.
pub struct Supervisor {
    duration: Option<Duration>,
    signals: Signals,
    waker: bpf::Waker,
    control: Arc<Control>,
    /// When a signal first asked for the end
    asked: Option<Instant>,
}

/// A second signal that comes sooner is the first one once more.
pub(super) const SAME_SIGNAL: Duration = Duration::from_millis(250);

impl Supervisor {
    /// `duration`: when to stop, if nobody asks for it before. `waker`: of the loop.
    pub fn new(duration: Option<Duration>, signals: Signals, waker: bpf::Waker) -> Self {
        Self {
            duration,
            signals,
            waker,
            control: Arc::default(),
            asked: None,
        }
    }

    /// Orders to the loop.
    pub fn control(&self) -> Arc<Control> {
        Arc::clone(&self.control)
    }

    /// Runs the loop, on a thread of its own, to its end. `fence`: behind which this thread goes then.
    pub async fn supervise(
        mut self,
        mut reader: Reader,
        logger: Option<bpf::Logger>,
        fence: Option<&Fence>,
        child: Option<Child>,
        mut asked: Asked,
    ) -> Result<Supervised, Error> {
        if let Some(logger) = logger {
            tokio::spawn(forward(logger));
        }
        let (done, mut outcome) = oneshot::channel();
        let ring_thread = thread::Builder::new()
            .name("tcptrace-ring".to_owned())
            .spawn(move || {
                // Nobody listens any more only when the process is about to end anyway.
                let _unheard = done.send(reader.run());
            })
            .context(
                "cannot start a thread (ulimit -u, or TasksMax= of a service, may forbid it)",
            )?;
        if let Some(fence) = fence
            && let Err(why) = fence.raise()
        {
            log::warn!("privileges are kept: {why:#}");
        }
        let mut command = child.map(Running::watch).transpose()?;
        asked.watch()?;
        let timer = sleep(self.duration.unwrap_or(Duration::MAX));
        tokio::pin!(timer);
        loop {
            tokio::select! {
                outcome = &mut outcome => {
                    let totals = outcome.context("the reading thread failed")??;
                    let status = match &mut command {
                        Some(command) => Some(command.end(&mut self.signals).await),
                        None => None,
                    };
                    return Ok(Supervised { totals, ring_thread, status });
                }
                () = Running::ended(&mut command) => self.drain(),
                () = asked.ended() => self.drain(),
                () = &mut timer, if !self.stopping() => self.stop(),
                _ = self.signals.hangup.recv() => match self.signals.on_hangup {
                    OnHangup::Reopen => self.reopen(),
                    OnHangup::Stop => {
                        self.asked.get_or_insert_with(Instant::now);
                        self.stop();
                    }
                    OnHangup::Ignore => {}
                },
                _ = self.signals.interrupt.recv() => {
                    // The terminal has echoed a `^C`, behind which nothing more should stand.
                    let mut stderr = std::io::stderr();
                    if stderr.is_terminal() {
                        let _unsaid = writeln!(stderr);
                    }
                    if !Running::takes(command.as_mut(), rustix::process::Signal::INT) {
                        self.end()?;
                    }
                }
                _ = self.signals.terminate.recv() => {
                    if !Running::takes(command.as_mut(), rustix::process::Signal::TERM) {
                        self.end()?;
                    }
                }
            }
        }
    }

    /// Somebody wants it to end; asked twice, at once.
    fn end(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        // It may be ending already, because its time is over.
        let asked = *self.asked.get_or_insert(now);
        self.stop();
        // `timeout` signals its child, and then its process group.
        if now.duration_since(asked) < SAME_SIGNAL {
            return Ok(());
        }
        Err(unwritten())
    }

    fn stopping(&self) -> bool {
        self.control.stop.load(Ordering::Acquire)
    }

    fn stop(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The command has ended, or all processes of `-p` have: so does the trace, with the last process that has
    /// come of them.
    fn drain(&self) {
        self.control.drain.store(true, Ordering::Release);
        self.waker.wake();
    }

    fn reopen(&self) {
        self.control.reopen.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// A second signal came while the reader of our output, or the kernel, still kept us waiting.
fn unwritten() -> Error {
    let why = "a second signal came while the reader of the output, or the kernel, kept us waiting";
    anyhow::anyhow!("ended before everything was written: {why}").into()
}

async fn forward(mut logger: bpf::Logger) {
    let mut turn = interval(LOG_TURN);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        logger.flush();
    }
}
