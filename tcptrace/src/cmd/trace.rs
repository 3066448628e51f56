//! `tcptrace`, without a command: attach, run the loop, say how it went.

use std::{io::Write as _, process::ExitCode, sync::Arc, thread};

use tcptrace_common::config::EMIT_TRANSITION;

use crate::{
    bpf,
    cli::Format,
    error::Error,
    export,
    kernel::{self, Kernel, capability},
    output::Output,
    privileges::{self, Fence, Needs},
    service::Manager,
    settings::Settings,
    sink::{
        csv::Csv,
        ecs::Ecs,
        json::Json,
        table::{Look, Table},
        text,
        time::TimeColumn,
    },
    trace::{
        Asked, Consumer, LineOutput, Outputs, Reader, Signals, Supervised, Supervisor, Totals,
        child::Child,
    },
};

/// The port of name servers
const DNS: u16 = 53;

/// Exit status when something was lost and `--fail-on-loss` was given.
const LOST: u8 = 4;

/// Traces until told to stop.
pub(super) fn run(mut settings: Settings) -> Result<ExitCode, Error> {
    kernel::files::allow()?;
    let missing = capability::missing();
    if !missing.is_empty() {
        return Err(Error::CannotTrace(capability::how_to_give(&missing)));
    }
    kernel::refuse_lockdown()?;
    let max_sockets = kernel::memory::sockets(settings.run.max_sockets, settings.run.ring_bytes)?;
    let mut child = if settings.command.is_empty() {
        None
    } else {
        Some(Child::hold(&settings.command)?)
    };
    if let Some(child) = &child {
        settings.filters.pids.follow_command(child.pid());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    // A FIFO waits here for its reader; until then a signal just ends us.
    let output = settings
        .prints
        .then(|| Output::open(settings.output.clone(), child.is_some()))
        .transpose()?;
    if let Some(output) = &output
        && settings.view.format == Format::Table
        && settings.filters.states.is_any()
    {
        settings.records.suit_terminal(output.columns());
    }
    let exports = export::prepare(&settings.exports, &settings.records)?;
    let settings = Arc::new(settings);
    // Before anything is attached: a signal may come meanwhile.
    let signals = runtime.block_on(async { Signals::watch(&settings) })?;
    let mut kernel = Kernel::look(&settings.kernel.btf)?;
    let mut tracer = bpf::start(&settings, &kernel, max_sockets)?;
    let pids = settings.filters.pids.as_slice();
    if !pids.is_empty() && !kernel::shows_all_processes() {
        log::warn!(
            "-p takes process ids of the host, and this PID namespace has its own; on the host, \
             `lsns -t pid` and `grep NSpid /proc/PID/status` show both"
        );
    }
    let asked = Asked::find(pids);
    for (mechanism, why) in &tracer.hooks.refused {
        log::info!("accept: not by {mechanism}: {why}");
    }

    if tracer.hooks.accept == bpf::Mechanism::None {
        log::warn!(
            "accept() is not seen here: connections are shown with the process that listens, and with -p \
             not at all if another accepts; `tcptrace check` and -v say why"
        );
    }

    if let Some(fd) = output.as_ref().and_then(Output::stdout_fd) {
        tracer.ring.watch_hangup(fd);
    }
    // Megabytes that nobody reads any more.
    kernel.btf = Vec::new();
    let logger = if settings.verbose > 0 {
        tracer.logger()
    } else {
        None
    };
    let fence = fence(&settings, &tracer)?;
    let gate = child.as_mut().and_then(Child::gate);
    let supervisor = Supervisor::new(settings.run.duration, signals, tracer.ring.waker()?);
    let reader = Reader::new(
        tracer,
        kernel,
        Arc::clone(&settings),
        Outputs::new(outputs(&settings, output, exports, fence.as_ref())?),
        supervisor.control(),
    )
    .behind(fence.clone())
    .managed(Manager::from_environment())
    .opening(gate);
    let supervised =
        runtime.block_on(supervisor.supervise(reader, logger, fence.as_ref(), child, asked))?;
    let Supervised {
        totals,
        ring_thread,
        status: command,
    } = supervised;
    let status = finish(&settings, &totals, command);
    // Nothing is left behind: what is attached goes before we do.
    let _panicked = ring_thread.join();
    Ok(status)
}

/// Where events go: the output, and each export.
fn outputs(
    settings: &Settings,
    output: Option<Output>,
    exports: export::Prepared,
    fence: Option<&Fence>,
) -> Result<Vec<Box<dyn Consumer>>, Error> {
    let lines = output.map(|output| line_output(settings, output));
    let mut consumers: Vec<_> = lines.into_iter().collect();
    // Started from behind the fence, their threads are behind it, too.
    let start = || {
        if let Some(fence) = fence
            && let Err(why) = fence.raise()
        {
            log::warn!("exports keep their privileges: {why:#}");
        }
        exports.start()
    };
    let started = thread::scope(|scope| scope.spawn(start).join());
    consumers
        .extend(started.unwrap_or_else(|_panic| Err(anyhow::anyhow!("exports failed").into()))?);
    Ok(consumers)
}

/// Whether we have started a process; it may be another user's.
fn has_children() -> bool {
    std::fs::read_to_string("/proc/thread-self/children").is_ok_and(|pids| !pids.is_empty())
}

/// What is given up once everything is attached, unless the user wants to keep it.
fn fence(settings: &Settings, tracer: &bpf::Tracer) -> Result<Option<Fence>, Error> {
    if settings.run.keep_privileges {
        return Ok(None);
    }
    let exports = &settings.exports;
    let needs = Needs {
        attaches_later: tracer.is_idle(),
        signals_others: has_children(),
        output: settings.output.clone(),
        network: exports.network(),
        // Names are looked up over TCP where the answer is long.
        ports: Some(exports.ports().into_iter().chain([DNS]).collect()),
        local: exports.journald,
    };
    log::info!(
        "kept after the start: {:?}",
        privileges::names(needs.capabilities())
    );
    Ok(Some(Fence::new(&needs)?))
}

fn line_output(settings: &Settings, output: Output) -> Box<dyn Consumer> {
    let lines = settings.records.lines();
    match settings.view.format {
        Format::Json => Box::new(LineOutput::new(Json::new(lines), output)),
        Format::Csv => {
            let sink = Csv::new(lines.explain, output.is_new());
            Box::new(LineOutput::new(sink, output))
        }
        Format::Ecs => {
            let sink = Ecs::new(lines.explain, &kernel::host_name());
            Box::new(LineOutput::new(sink, output))
        }
        Format::Table => {
            let sink = Table::new(Look {
                time: TimeColumn::new(settings.time.clone(), 0),
                lines,
                colored: settings.view.is_colored(output.is_terminal()),
                wide: settings.view.wide,
                header: !settings.quiet,
            });
            Box::new(LineOutput::new(sink, output))
        }
    }
}

/// Says how it went, and with which status to exit.
fn finish(settings: &Settings, totals: &Totals, command: Option<u8>) -> ExitCode {
    let end = &totals.end;
    if totals.malformed > 0 {
        log::warn!(
            "{} records were not understood",
            text::count(totals.malformed)
        );
    }
    if !settings.quiet && !totals.closed {
        let number = text::count(end.lost);
        let others = text::count(totals.lost_beside);
        let lost = match (end.lost, totals.lost_beside) {
            (0, 0) => "none lost".to_owned(),
            (0, _) => format!("{others} records of other kinds lost"),
            (_, 0) => format!("{number} lost"),
            _ => format!("{number} lost, and {others} records of other kinds"),
        };
        let number_of = |number: u64, one: &str| {
            let plural = if number == 1 { "" } else { "s" };
            format!("{} {one}{plural}", text::count(number))
        };
        let connections = end.connections.saturating_sub(end.listeners);
        let mut seen = number_of(connections, "connection");
        if settings.records.shows(EMIT_TRANSITION) {
            seen = format!("{} of {seen}", number_of(end.transitions, "transition"));
        }
        if end.listeners > 0 {
            seen.push_str(", ");
            seen.push_str(&number_of(end.listeners, "listener"));
        }
        if let Some(open) = end.open.filter(|open| *open > 0) {
            seen.push_str(", ");
            seen.push_str(&text::count(open));
            seen.push_str(" still open");
            if let Some(most) = settings.records.open_max.filter(|most| *most < open) {
                let listed = [
                    " (",
                    &text::count(most),
                    " of them listed; --all lists all)",
                ];
                seen.push_str(&listed.concat());
            }
        }
        let summary = format!(
            "tcptrace: {seen} in {}, {lost}",
            text::duration(end.duration_us),
        );
        // Standard error may be closed; there is nowhere left to say so.
        let _unsaid = writeln!(std::io::stderr(), "{summary}");
    }
    if let Some(status) = command.filter(|status| *status != 0) {
        return ExitCode::from(status);
    }
    if settings.run.fail_on_loss && totals.anything_lost {
        return ExitCode::from(LOST);
    }
    ExitCode::SUCCESS
}
