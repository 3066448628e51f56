//! One load beside one tool.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::dialogue::Dialogue;
use super::load::{PORT, PORT_MASK, Plan};
use super::tool::{Prints, Programs, Tool, Tracer};
use toolchain::process::{Bpf, bpf, cpu_ns, peak_rss_kib, wait_until_idle};

/// Transitions of a connection in which the client closes first, both ends together.
const TRANSITIONS: u32 = 10;

/// Of those, at its end.
const CLOSING: u32 = 6;

/// How long a tool may go on with what the load has left it.
const DRAIN_LIMIT: Duration = Duration::from_mins(1);

/// Until the kernel has done away with the namespace of the load and its sockets.
const SETTLE: Duration = Duration::from_millis(1500);

/// A line that has not come by then will not come.
const LINE_LIMIT: Duration = Duration::from_secs(10);

/// What one trial has measured.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Connections each second
    pub(super) throughput: f64,
    /// Time of `connect()`: median, µs
    pub(super) p50_us: f64,
    /// Of a hundred, the second slowest, µs
    pub(super) p99_us: f64,
    /// Client and server, µs for each connection
    pub(super) load_us: f64,
    /// The tool, s for a million transitions
    pub(super) agent_s: f64,
    /// The tool's memory at most, MiB
    pub(super) rss_mib: f64,
    /// Memory of its maps, MiB
    pub(super) map_mib: f64,
    /// Its programs, ns for each transition
    pub(super) bpf_ns: f64,
    /// Runs of its programs for each transition
    pub(super) runs: f64,
    /// Runs that the recursion guard skipped
    pub(super) misses: u64,
    /// What there was to be reported
    pub(super) expected: u64,
    /// What was reported
    pub(super) reported: u64,
    /// What the tool said it lost; none if it said nothing of losses
    pub(super) admitted: Option<u64>,
    /// From SIGINT to its end, ms
    pub(super) exit_ms: f64,
}

/// Where the lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// `/dev/null`
    Discarded,
    /// A file, whose lines are counted beside a counter in the kernel
    Counted,
}

/// Runs one load beside one tool.
#[expect(
    clippy::cast_precision_loss,
    reason = "no number here is anywhere near 2^53"
)]
pub(super) fn measure(
    tool: Tool,
    programs: &Programs,
    plan: Plan,
    output: Output,
) -> Result<Sample> {
    let mut load = start_load(plan)?;
    let counter = (output == Output::Counted)
        .then(|| Counter::start(programs))
        .transpose()?;
    let path = programs.folder.join("lines");
    let stdout = match output {
        Output::Discarded => Stdio::null(),
        Output::Counted => File::create(&path)?.into(),
    };
    let tracer = tool.start(programs, stdout)?;
    let pid = tracer.as_ref().map(Tracer::pid);
    let ours_from = fs::metadata(&path).map_or(0, |file| file.len());
    let mut counter = counter;
    let counted_before = counter.as_mut().map_or(Ok(0), Counter::ask)?;

    load.order("open")?;
    load.expect("opened")?;
    if plan.hold > 0
        && let Some(pid) = pid
    {
        wait_until_idle(pid, DRAIN_LIMIT)?;
    }
    let before = Usage::of(pid)?;
    load.order("go")?;
    let measured = result(&mut load)?;
    if let Some(pid) = pid {
        wait_until_idle(pid, DRAIN_LIMIT)?;
    }
    let after = Usage::of(pid)?;
    let counted = counter.as_mut().map_or(Ok(0), Counter::ask)? - counted_before;

    let mut sample = Sample::default();
    if let (Some(pid), Some(tracer)) = (pid, tracer) {
        sample.rss_mib = peak_rss_kib(pid)? as f64 / 1024.0;
        let (exit, said) = tracer.interrupt()?;
        sample.exit_ms = exit.map_or(f64::NAN, |exit| exit.as_secs_f64() * 1e3);
        sample.admitted = admitted(tool, &said);
        if output == Output::Counted && tool.prints != Prints::Nothing {
            let all = plan.connections + plan.hold;
            sample.expected = match tool.prints {
                Prints::Connections if plan.connections > 0 => u64::from(2 * plan.connections),
                Prints::Connections => u64::from(2 * all),
                _ => counted,
            };
            let mut lines = File::open(&path)?;
            lines.seek(SeekFrom::Start(ours_from))?;
            sample.reported = count_lines(tool, lines)?;
        }
    }
    load.order("end")?;
    drop(load);
    thread::sleep(SETTLE);

    let transitions = f64::from(match plan.connections {
        0 => plan.hold * CLOSING,
        connections => connections * TRANSITIONS,
    });
    let connections = f64::from(match plan.connections {
        0 => plan.hold,
        connections => connections,
    });
    let number = |key: &str| measured[key].as_f64().unwrap_or(f64::NAN);
    sample.throughput = connections / (number("elapsed_ns") / 1e9);
    sample.p50_us = number("p50_ns") / 1e3;
    sample.p99_us = number("p99_ns") / 1e3;
    sample.load_us = number("cpu_ns") / 1e3 / connections;
    sample.agent_s = after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e3 / transitions;
    sample.map_mib = after.bpf.map_bytes as f64 / f64::from(1 << 20);
    sample.bpf_ns = (after.bpf.run_ns - before.bpf.run_ns) as f64 / transitions;
    sample.runs = (after.bpf.runs - before.bpf.runs) as f64 / transitions;
    sample.misses = after.bpf.misses - before.bpf.misses;
    Ok(sample)
}

/// What a tool has used so far.
#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    cpu_ns: u64,
    bpf: Bpf,
}

impl Usage {
    fn of(pid: Option<u32>) -> Result<Self> {
        let Some(pid) = pid else {
            return Ok(Self::default());
        };
        Ok(Self {
            cpu_ns: cpu_ns(pid)?,
            bpf: bpf(pid)?,
        })
    }
}

/// The losses that a tool says it had, as far as we understand it.
fn admitted(tool: Tool, said: &str) -> Option<u64> {
    if tool.is_ours() {
        let summary = said.lines().rev().find(|line| line.ends_with(" lost"))?;
        let number = summary.strip_suffix(" lost")?.rsplit(' ').next()?;
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        return Some(digits.parse().unwrap_or(0));
    }
    // "Possibly lost 12 samples", "lost 12 events on CPU #0", "Lost 12 events".
    let lost = said.lines().filter_map(|line| {
        let line = line.to_ascii_lowercase();
        let (_, rest) = line.split_once("lost ")?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    let lost: u64 = lost.sum();
    (lost > 0).then_some(lost)
}

fn count_lines(tool: Tool, lines: File) -> Result<u64> {
    let mut reported = 0;
    let mut lines = BufReader::with_capacity(1 << 20, lines);
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(reported);
        }
        reported += u64::from(tool.counts(&String::from_utf8_lossy(&line)));
    }
}

/// How soon a tool shows something.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Promptness {
    /// From its start to the first line, under 1,000 connections each second
    pub(super) first: Option<Duration>,
    /// From SIGINT to its end under that load
    pub(super) exit: Duration,
    /// From the order to connect, on an idle host, to the line
    pub(super) quiet: Option<Duration>,
}

/// Starts and ends a tool under load, then has it show a single connection.
pub(super) fn promptness(tool: Tool, programs: &Programs) -> Result<Promptness> {
    let mut load = start_load(Plan {
        connections: 5000,
        rate: 1000,
        ..Plan::default()
    })?;
    load.order("open")?;
    load.expect("opened")?;
    load.order("go")?;
    thread::sleep(Duration::from_millis(500));
    let start = Instant::now();
    let mut tracer = tool
        .spawn(programs, Stdio::piped())?
        .context("nothing to start")?;
    let seen = watch(tool, &mut tracer)?;
    let first = seen.recv_timeout(LINE_LIMIT).ok();
    thread::sleep(Duration::from_millis(500));
    let (exit, _said) = tracer.interrupt()?;
    let exit = exit.context("it does not end")?;
    result(&mut load)?;
    load.order("end")?;
    drop(load);

    let mut load = start_load(Plan {
        connections: 1,
        ..Plan::default()
    })?;
    load.order("open")?;
    load.expect("opened")?;
    let mut tracer = tool
        .spawn(programs, Stdio::piped())?
        .context("nothing to start")?;
    let seen = watch(tool, &mut tracer)?;
    while !bpf(tracer.pid())?.attached {
        thread::sleep(Duration::from_millis(20));
    }
    wait_until_idle(tracer.pid(), LINE_LIMIT)?;
    // What was open at its start is no answer.
    while seen.try_recv().is_ok() {}
    let order = Instant::now();
    load.order("go")?;
    let quiet = seen.recv_timeout(LINE_LIMIT).ok();
    result(&mut load)?;
    drop(tracer);
    load.order("end")?;
    drop(load);
    thread::sleep(SETTLE);

    Ok(Promptness {
        first: first.map(|seen| seen - start),
        exit,
        quiet: quiet.map(|seen| seen - order),
    })
}

/// Reads a tool's output to its end, and says when each line came.
fn watch(tool: Tool, tracer: &mut Tracer) -> Result<Receiver<Instant>> {
    let output = tracer.output().context("it has no output")?;
    let (seen, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if tool.counts(&String::from_utf8_lossy(&line)) {
                // Nobody waits for later ones.
                let _unheard = seen.send(Instant::now());
            }
        }
    });
    Ok(receiver)
}

/// The load, in a network namespace of its own; its server listens.
pub(super) fn start_load(plan: Plan) -> Result<Dialogue> {
    let mut load = Dialogue::start(
        Command::new("unshare")
            .args(["--net", "--"])
            .arg(env::current_exe()?)
            .arg("client")
            .args(plan.args()),
    )?;
    load.expect("ready")?;
    Ok(load)
}

/// What the load has measured.
fn result(load: &mut Dialogue) -> Result<Value> {
    Ok(serde_json::from_str(&load.said()?)?)
}

/// A program of ours that counts transitions of the load.
struct Counter(Dialogue);

impl Counter {
    fn start(programs: &Programs) -> Result<Self> {
        let mut counter = Self(Dialogue::start(
            Command::new(&programs.counter)
                .arg(&programs.object)
                .args([PORT.to_string(), PORT_MASK.to_string()]),
        )?);
        counter.ask()?;
        Ok(counter)
    }

    /// How many there were by now, with those during which the program was busy on that CPU.
    fn ask(&mut self) -> Result<u64> {
        self.0.order("")?;
        Ok(self.0.said()?.parse::<u64>()? + bpf(self.0.pid())?.misses)
    }
}
