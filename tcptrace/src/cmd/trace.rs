//! `tcptrace`, without a command: attach, run the loop, say how it went.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use tcptrace_common::config::EMIT_TRANSITION;

use crate::{
    bpf,
    cli::Format,
    error::Error,
    kernel::{self, Kernel, capability},
    output::Output,
    settings::Settings,
    sink::{
        csv::Csv,
        ecs::Ecs,
        json::Json,
        table::{Look, Table},
        text,
        time::TimeColumn,
    },
    trace::{Consumer, LineOutput, Outputs, Reader, Signals, Supervisor, Totals},
};

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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    // A FIFO waits here for its reader; until then a signal just ends us.
    let output = Output::open(settings.output.clone())?;
    if settings.view.format == Format::Table && settings.filters.states.is_any() {
        settings.records.suit_terminal(output.columns());
    }
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
    for pid in pids {
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

    if let Some(fd) = output.stdout_fd() {
        tracer.ring.watch_hangup(fd);
    }
    // Megabytes that nobody reads any more.
    kernel.btf = Vec::new();
    let logger = if settings.verbose > 0 {
        tracer.logger()
    } else {
        None
    };
    let supervisor = Supervisor::new(settings.run.duration, signals, tracer.ring.waker()?);
    let reader = Reader::new(
        tracer,
        kernel,
        Arc::clone(&settings),
        outputs(&settings, output),
        supervisor.control(),
    );
    let (totals, ring_thread) = runtime.block_on(supervisor.supervise(reader, logger))?;
    let status = finish(&settings, &totals);
    // Nothing is left behind: what is attached goes before we do.
    let _panicked = ring_thread.join();
    Ok(status)
}

/// Where events go: the output, and each export.
fn outputs(settings: &Settings, output: Output) -> Outputs {
    Outputs::new(vec![line_output(settings, output)])
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
fn finish(settings: &Settings, totals: &Totals) -> ExitCode {
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
        let summary = format!(
            "tcptrace: {seen} in {}, {lost}",
            text::duration(end.duration_us),
        );
        // Standard error may be closed; there is nowhere left to say so.
        let _unsaid = writeln!(std::io::stderr(), "{summary}");
    }
    if settings.run.fail_on_loss && totals.anything_lost {
        return ExitCode::from(LOST);
    }
    ExitCode::SUCCESS
}
