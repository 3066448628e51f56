//! A trace from start to end: attach, run the loop, mind the signals and the clock.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tcptrace_common::config::EMIT_TRANSITION;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    bpf,
    cli::{ColorWhen, Format},
    error::Error,
    kernel::{self, Kernel, capability, field},
    output::Output,
    pipeline::{Control, Outcome, Pipeline, close_lines},
    settings::Settings,
    sink::{
        Sink,
        json::Json,
        table::{Look, Table},
        text,
        time::TimeColumn,
    },
};

/// How often the kernel side's own messages are read, with `-v`.
const LOG_TURN: Duration = Duration::from_millis(100);

/// Exit status when something was lost and `--fail-on-loss` was given.
const LOST: u8 = 4;

/// Traces until told to stop.
pub fn run(settings: Settings) -> Result<ExitCode, Error> {
    kernel::files::allow()?;
    let missing = capability::missing();
    if !missing.is_empty() {
        return Err(Error::CannotTrace(capability::how_to_give(&missing)));
    }
    kernel::refuse_lockdown()?;
    let max_sockets = kernel::memory::sockets(settings.max_sockets, settings.ring_bytes)?;
    let settings = Arc::new(settings);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    let on_hangup = OnHangup::new(&settings);
    // A FIFO waits here for its reader; until then a signal just ends us.
    let output = Output::open(settings.output.clone())?;
    // Before anything is attached: a signal that comes meanwhile ends the trace, and in order.
    let signals = runtime.block_on(async { Signals::watch() })?;
    let sink = sink(&settings, &output);
    let mut kernel = Kernel::look(&settings.btf)?;
    let mut tracer = bpf::start(&settings, &kernel, max_sockets)?;
    if !settings.pids.is_empty() && !kernel::shows_all_processes() {
        log::warn!(
            "-p takes process ids of the host, and this PID namespace has its own; on the host, \
             `lsns -t pid` and `grep NSpid /proc/PID/status` show both"
        );
    }
    for pid in &settings.pids {
        if kernel::shows_all_processes() && !std::path::Path::new(&format!("/proc/{pid}")).exists()
        {
            log::warn!("there is no process {pid} now");
        }
    }
    for (mechanism, why) in &tracer.hooks.refused {
        log::info!("accept: not by {mechanism}: {why}");
    }

    if tracer.hooks.accept == bpf::Mechanism::None {
        log::warn!(
            "accept() is not seen here: connections are shown with the process that listens, and with -p \
             not at all if another accepts; `tcptrace check` and -v say why"
        );
    }

    // Megabytes that nobody reads any more.
    kernel.btf = Vec::new();
    let logger = if settings.verbose > 0 {
        tracer.logger()
    } else {
        None
    };
    let supervisor = Supervisor {
        duration: settings.duration,
        on_hangup,
        signals,
        waker: tracer.ring.waker()?,
        control: Arc::new(Control::default()),
        asked: None,
    };
    let pipeline = Pipeline::new(
        tracer,
        kernel,
        Arc::clone(&settings),
        sink,
        output,
        Arc::clone(&supervisor.control),
    );
    let (outcome, ring_thread) = runtime.block_on(supervisor.supervise(pipeline, logger))?;
    let status = finish(&settings, &outcome);
    // Nothing is left behind: what is attached goes before we do.
    let _panicked = ring_thread.join();
    Ok(status)
}

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
    /// Asks before handlers are installed.
    fn new(settings: &Settings) -> Self {
        match settings.output {
            Some(_) => Self::Reopen,
            None if hangup_ignored() => Self::Ignore,
            None => Self::Stop,
        }
    }
}

/// The signals that steer a trace.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Without a handler it ends the process in the middle of a line; with one, the write fails
    _file_too_large: Signal,
}

impl Signals {
    /// Call it within a runtime.
    fn watch() -> Result<Self, Error> {
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self {
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
struct Supervisor {
    duration: Option<Duration>,
    on_hangup: OnHangup,
    signals: Signals,
    waker: bpf::Waker,
    control: Arc<Control>,
    /// When a signal first asked for the end
    asked: Option<Instant>,
}

/// A second signal that comes sooner is the first one once more.
const SAME_SIGNAL: Duration = Duration::from_millis(250);

impl Supervisor {
    async fn supervise(
        mut self,
        mut pipeline: Pipeline,
        logger: Option<bpf::Logger>,
    ) -> Result<(Outcome, JoinHandle<()>), Error> {
        if let Some(logger) = logger {
            tokio::spawn(forward(logger));
        }
        let (done, mut outcome) = oneshot::channel();
        let ring_thread = thread::Builder::new()
            .name("tcptrace-ring".to_owned())
            .spawn(move || {
                // Nobody listens any more only when the process is about to end anyway.
                let _unheard = done.send(pipeline.run());
            })
            .context(
                "cannot start a thread (ulimit -u, or TasksMax= of a service, may forbid it)",
            )?;
        let timer = sleep(self.duration.unwrap_or(Duration::MAX));
        tokio::pin!(timer);
        loop {
            tokio::select! {
                outcome = &mut outcome => {
                    let outcome = outcome.context("the reading thread failed")??;
                    return Ok((outcome, ring_thread));
                }
                () = &mut timer, if !self.stopping() => self.stop(),
                _ = self.signals.hangup.recv() => match self.on_hangup {
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
                    self.end()?;
                }
                _ = self.signals.terminate.recv() => self.end()?,
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

fn sink(settings: &Settings, output: &Output) -> Box<dyn Sink + Send> {
    let lines = close_lines(settings.print, settings.explain);
    match settings.format {
        Format::Json => Box::new(Json::new(lines)),
        Format::Table => Box::new(Table::new(Look {
            time: TimeColumn::new(settings.time.clone(), 0),
            lines,
            colored: colored(settings.color, output),
            wide: settings.wide,
            header: !settings.quiet,
        })),
    }
}

/// `--color`, `NO_COLOR`, and terminals that cannot.
fn colored(when: ColorWhen, output: &Output) -> bool {
    let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => !forbidden && output.is_terminal(),
    }
}

/// Says how it went, and with which status to exit.
fn finish(settings: &Settings, outcome: &Outcome) -> ExitCode {
    let end = &outcome.end;
    if outcome.malformed > 0 {
        log::warn!(
            "{} records were not understood",
            text::count(outcome.malformed)
        );
    }
    if !settings.quiet && !outcome.closed {
        let number = text::count(end.lost);
        let others = text::count(outcome.lost_beside);
        let lost = match (end.lost, outcome.lost_beside) {
            (0, 0) => "none lost".to_owned(),
            (0, _) => format!("{others} records of other kinds lost"),
            (_, 0) => format!("{number} lost"),
            _ => format!("{number} lost, and {others} records of other kinds"),
        };
        let number_of = |number: u64, one: &str| {
            let plural = if number == 1 { "" } else { "s" };
            format!("{} {one}{plural}", text::count(number))
        };
        let mut told = number_of(end.connections, "connection");
        if settings.print & EMIT_TRANSITION != 0 {
            told = format!("{} of {told}", number_of(end.transitions, "transition"));
        }
        let summary = format!(
            "tcptrace: {told} in {}, {lost}",
            text::duration(end.duration_us),
        );
        // Standard error may be closed; there is nowhere left to say so.
        let _unsaid = writeln!(std::io::stderr(), "{summary}");
    }
    if settings.fail_on_loss && outcome.anything_lost {
        return ExitCode::from(LOST);
    }
    ExitCode::SUCCESS
}
