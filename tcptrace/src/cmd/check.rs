//! `tcptrace check`: what can be known on this kernel and how, without tracing.

use std::{collections::BTreeMap, io::Write as _, process::ExitCode, thread};

use clap::Parser as _;
use rustix::thread::CapabilitySet;
use serde::Serialize;

use crate::{
    bpf::{self, Hooks, Mechanism, TimeWait},
    cli::{CheckArgs, Cli},
    error::Error,
    kernel::{
        self, Kernel,
        capability::{self, Capability, READ_TRACEFS},
        tracefs,
    },
    privileges::{self, Fence, Needs},
    settings::Settings,
};

/// How well a fact is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Quality {
    /// The kernel proves it
    Exact,
    /// Known only in part; `note` says which part is missing
    Partial,
    /// Not known
    Missing,
}

/// One fact and what gives it.
#[derive(Debug, Serialize)]
struct Fact {
    #[serde(rename = "fact")]
    name: &'static str,
    quality: Quality,
    mechanism: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What a trace that runs has given up, and what it keeps.
#[derive(Debug, Serialize)]
struct AfterStart {
    /// Capabilities that it still has
    kept: Vec<String>,
    /// Those that it keeps with some options
    kept_with: BTreeMap<&'static str, Vec<String>>,
    /// Whether there is a Landlock fence around files
    landlock: bool,
    /// Whether the kernel refuses it system calls that it does not need
    seccomp: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    kernel: String,
    can_trace: bool,
    btf: bool,
    tracefs: bool,
    capabilities: BTreeMap<&'static str, bool>,
    facts: Vec<Fact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_start: Option<AfterStart>,
    /// Better mechanisms that are not to be had, and why
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    unavailable: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

/// Tries everything once and says how it went: status 0 if tracing works here, 3 if not.
pub(super) fn run(args: &CheckArgs) -> Result<ExitCode, Error> {
    let report = examine(args)?;
    let mut text = Vec::new();
    if args.json {
        serde_json::to_writer(&mut text, &report).map_err(anyhow::Error::new)?;
        text.push(b'\n');
    } else {
        render(&report, &mut text).map_err(anyhow::Error::new)?;
    }
    super::print(&text)?;
    Ok(ExitCode::from(if report.can_trace { 0 } else { 3 }))
}

fn examine(args: &CheckArgs) -> Result<Report, Error> {
    // What it may not have open is missing below, and said in the last line.
    let files = kernel::files::allow();
    let set = capability::effective();
    let mut report = Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: kernel::release(),
        can_trace: false,
        btf: std::fs::metadata(&args.kernel.btf).is_ok_and(|file| file.len() > 0),
        tracefs: tracefs::is_mounted(),
        capabilities: capability::CAPABILITIES
            .iter()
            .map(|capability| (capability.name, capability::holds(set, *capability)))
            .collect(),
        facts: Vec::new(),
        after_start: None,
        unavailable: BTreeMap::new(),
        problems: Vec::new(),
    };
    if let Err(why) = files {
        report.problems.push(why.to_string());
        return Ok(report);
    }
    let missing = capability::missing();
    if !missing.is_empty() {
        report.problems.push(capability::how_to_give(&missing));
        return Ok(report);
    }
    if let Err(why) = kernel::refuse_lockdown() {
        report.problems.push(why.to_string());
        return Ok(report);
    }
    let small = Cli::try_parse_from(["tcptrace", "--buffer", "4K", "--max-sockets", "16"])
        .map_err(anyhow::Error::new)?;
    let mut settings = Settings::new(small.trace)?;
    settings.kernel.clone_from(&args.kernel);
    let attached = || {
        let max_sockets =
            kernel::memory::sockets(settings.run.max_sockets, settings.run.ring_bytes)?;
        let kernel = Kernel::look(&settings.kernel.btf)?;
        bpf::start(&settings, &kernel, max_sockets)
    };
    match attached() {
        Ok(tracer) => {
            report.can_trace = true;
            report.facts = facts(&tracer.hooks);
            report.unavailable = tracer
                .hooks
                .refused
                .iter()
                .map(|(mechanism, why)| (mechanism.to_string(), why.clone()))
                .collect();
            report.problems = problems(&report, &tracer.hooks);
            match after_start(tracer) {
                Ok(after) => report.after_start = Some(after),
                Err(why) => report
                    .problems
                    .push(format!("rights are kept after the start: {why:#}")),
            }
        }
        Err(why) => report.problems.push(why.to_string()),
    }
    Ok(report)
}

/// Gives up what a trace gives up after its start, in a thread that ends with that.
fn after_start(tracer: bpf::Tracer) -> anyhow::Result<AfterStart> {
    let fence = Fence::new(&Needs::default())?;
    let raised = thread::spawn(move || fence.raise_where(|| tracer.answers()))
        .join()
        .map_err(|_panic| anyhow::anyhow!("the thread has ended"))??;
    let mut notes = Vec::new();
    if raised.kept.contains(CapabilitySet::BPF) {
        notes.push("this kernel lets nobody use maps without CAP_BPF".to_owned());
    }
    notes.extend(raised.no_files.iter().chain(&raised.no_calls).cloned());
    let with = |needs: Needs| privileges::names(needs.capabilities());
    Ok(AfterStart {
        kept: privileges::names(raised.kept),
        kept_with: BTreeMap::from([
            (
                "-o",
                with(Needs {
                    output: Some("FILE".into()),
                    ..Needs::default()
                }),
            ),
            (
                "-p",
                with(Needs {
                    attaches_later: true,
                    ..Needs::default()
                }),
            ),
        ]),
        landlock: raised.no_files.is_none(),
        seccomp: raised.no_calls.is_none(),
        notes,
    })
}

fn facts(hooks: &Hooks) -> Vec<Fact> {
    hooks
        .facts()
        .into_iter()
        .map(|(fact, mechanism)| {
            let (quality, note) = match (fact, hooks.accept) {
                ("accept", Mechanism::None) => (
                    Quality::Missing,
                    Some("accepted connections keep their listener's owner".to_owned()),
                ),
                ("accept", accept) => accept_quality(accept),
                ("time_wait", _) => time_wait_quality(hooks),
                ("reset", _) if !hooks.reset => (
                    Quality::Missing,
                    Some("why a connection ended is known from its error alone".to_owned()),
                ),
                ("counters", _) if hooks.lacks("counters") => lacking(hooks, "counters"),
                ("backlog", _) if hooks.lacks("listener") => lacking(hooks, "listener"),
                ("conn", _) if !hooks.cookie => (
                    Quality::Partial,
                    Some("not the number ss -e prints, unless somebody asked for that".to_owned()),
                ),
                ("snapshot", _) if !kernel::shows_all_processes() => (
                    Quality::Partial,
                    Some(
                        "this PID namespace is not the host's: who holds the sockets that are open at \
                         the start is not seen"
                            .to_owned(),
                    ),
                ),
                _ => (Quality::Exact, None),
            };
            Fact {
                name: fact,
                quality,
                mechanism,
                note,
            }
        })
        .collect()
}

fn lacking(hooks: &Hooks, fact: &str) -> (Quality, Option<String>) {
    let why = hooks
        .lacking
        .iter()
        .find_map(|(lacking, why)| (*lacking == fact).then(|| format!("this kernel has {why}")));
    (Quality::Missing, why)
}

fn time_wait_quality(hooks: &Hooks) -> (Quality, Option<String>) {
    match hooks.time_wait {
        TimeWait::Fentry | TimeWait::Kprobe => (Quality::Exact, None),
        TimeWait::Timer => (
            Quality::Partial,
            Some(
                "a FIN that comes after close() is known to the kernel's tick, and reported later"
                    .to_owned(),
            ),
        ),
        TimeWait::None if hooks.lacks("time_wait") => lacking(hooks, "time_wait"),
        TimeWait::None => (
            Quality::Missing,
            Some("the end of TIME_WAIT is not seen".to_owned()),
        ),
    }
}

fn accept_quality(accept: Mechanism) -> (Quality, Option<String>) {
    let mut blind = Vec::new();
    if !accept.sees_blocked() {
        blind.push("threads blocked in accept() before the start are missed once");
    }
    if !accept.sees_io_uring() {
        blind.push("accepts through io_uring and by 32-bit calls show when the acceptor closes");
    }
    if blind.is_empty() {
        (Quality::Exact, None)
    } else {
        (Quality::Partial, Some(blind.join("; ")))
    }
}

fn problems(report: &Report, hooks: &Hooks) -> Vec<String> {
    // Reading tracefs matters only where nothing else shows who accepts.
    let matters = |capability: &Capability| {
        capability.name != READ_TRACEFS || hooks.accept == Mechanism::None
    };
    let has = |capability: &Capability| report.capabilities.get(capability.name) == Some(&true);
    capability::CAPABILITIES
        .iter()
        .filter(|capability| matters(capability) && !has(capability))
        .map(|capability| {
            format!(
                "{} is missing, needed to {}: run it with sudo, or give it to the file: {}",
                capability.name,
                capability.purpose,
                capability::setcap(|given| matters(given) || has(given))
            )
        })
        .collect()
}

const fn yes(known: bool) -> &'static str {
    if known { "yes" } else { "no" }
}

fn head(name: &str, value: &str) -> String {
    format!("  {name:<19} {value}")
}

fn render(report: &Report, out: &mut Vec<u8>) -> std::io::Result<()> {
    writeln!(
        out,
        "tcptrace {} on Linux {}",
        report.version, report.kernel
    )?;
    writeln!(out)?;
    let answer = if report.can_trace {
        "works here"
    } else {
        "does not work here"
    };
    writeln!(out, "{}", head("tracing", answer))?;
    let types = format!("{} ({})", yes(report.btf), kernel::BTF_PATH);
    writeln!(out, "{}", head("kernel types", &types))?;
    let tracefs = if report.tracefs {
        "mounted"
    } else if report.capabilities.get("CAP_SYS_ADMIN") == Some(&true) {
        "not mounted; mounted privately if needed"
    } else {
        "not mounted; it takes CAP_SYS_ADMIN to do so if needed"
    };
    writeln!(out, "{}", head("tracefs", tracefs))?;
    for (name, held) in &report.capabilities {
        writeln!(out, "{}", head(name, yes(*held)))?;
    }
    if !report.facts.is_empty() {
        let width = report.facts.iter().map(|fact| fact.name.len()).max();
        let width = width.unwrap_or(0);
        writeln!(out, "\n  {:<width$} {:<8} BY", "FACT", "KNOWN")?;
        for fact in &report.facts {
            let quality = match fact.quality {
                Quality::Exact => "exactly",
                Quality::Partial => "in part",
                Quality::Missing => "no",
            };
            writeln!(
                out,
                "  {:<width$} {quality:<8} {}",
                fact.name, fact.mechanism
            )?;
            if let Some(note) = &fact.note {
                writeln!(out, "  {:<width$} {:<8} {note}", "", "")?;
            }
        }
    }
    if let Some(after) = &report.after_start {
        render_after_start(after, out)?;
    }
    if !report.unavailable.is_empty() {
        writeln!(out, "\n  Better, and not to be had here:")?;
        let width = report.unavailable.keys().map(String::len).max();
        let width = width.unwrap_or(0);
        for (mechanism, why) in &report.unavailable {
            writeln!(out, "  {mechanism:<width$} {why}")?;
        }
    }
    if !report.problems.is_empty() {
        writeln!(out)?;
        for problem in &report.problems {
            writeln!(out, "  ! {problem}")?;
        }
    }
    Ok(())
}

fn render_after_start(after: &AfterStart, out: &mut Vec<u8>) -> std::io::Result<()> {
    let list = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    writeln!(out, "\n  A trace that runs, without --keep-privileges:")?;
    let kept_with = after
        .kept_with
        .iter()
        .map(|(option, names)| format!("; with {option} {}", list(names)));
    let kept = list(&after.kept) + &kept_with.collect::<String>();
    writeln!(out, "{}", head("keeps capabilities", &kept))?;
    writeln!(out, "{}", head("Landlock fence", yes(after.landlock)))?;
    writeln!(out, "{}", head("seccomp list", yes(after.seccomp)))?;
    for note in &after.notes {
        writeln!(out, "{}", head("", note))?;
    }
    Ok(())
}
