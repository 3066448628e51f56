//! All trials, table by table.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use toolchain::workspace;

use super::choice::{Choice, Table};
use super::load::Plan;
use super::report::{self, Comparison, Series};
use super::tool::{Prints, Programs, Tool};
use super::trial::{self, Output, Promptness};
use super::turns::{self, Turns};

/// Loads that tools take turns beside, for each round of trials.
const LOADS_PER_ROUND: usize = 6;

/// Makes the kernel count runs of programs, and their time.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// All the trials.
pub(super) struct Bench<'a> {
    choice: &'a Choice,
    programs: &'a Programs,
    tools: Vec<Tool>,
    absent: Vec<(Tool, String)>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(choice: &'a Choice, programs: &'a Programs) -> Result<Self> {
        if !workspace::has_program("ip") {
            bail!("the load needs the command ip");
        }
        mount_tracefs()?;
        let (mut tools, mut absent) = (Vec::new(), Vec::new());
        for tool in choice.tools() {
            match tool.start(programs, Stdio::null()) {
                Ok(_tracer) => tools.push(tool),
                Err(why) => absent.push((tool, format!("{why:#}"))),
            }
        }
        Ok(Self {
            choice,
            programs,
            tools,
            absent,
        })
    }

    pub(super) fn run(&self) -> Result<()> {
        let start = Instant::now();
        let mut text = self.machine()?;
        for table in Table::ALL {
            if self.choice.wants(table) {
                text += &self.table(table)?;
            }
        }
        eprintln!("{} s in all", start.elapsed().as_secs());
        Ok(std::io::Write::write_all(
            &mut std::io::stdout(),
            text.as_bytes(),
        )?)
    }

    fn table(&self, table: Table) -> Result<String> {
        let quick = self.choice.quick;
        let connections = if quick { 20_000 } else { 60_000 };
        let at_most = Plan {
            connections,
            ..Plan::default()
        };
        Ok(match table {
            Table::Turns => {
                let turns = self.turns();
                format!(
                    "## In turns beside one load\n\nConnections as fast as they go, output to \
                     `/dev/null`; means of {} loads, and their standard errors.\n\n{}\n",
                    turns.first().map_or(0, |(_, loads)| loads.len()),
                    report::turns(&turns)
                )
            }
            Table::Speed => {
                let speed = self.compare("max", at_most, Output::Discarded, |_| true)?;
                format!(
                    "## As fast as it goes\n\n{connections} connections, output to `/dev/null`.\n\n\
                     {}\n### Beside the floor\n\n{}\n",
                    report::speed(&speed),
                    report::against_floor(&speed)
                )
            }
            Table::Programs => {
                let _counting = Stats::enable()?;
                let programs = self.compare("max", at_most, Output::Discarded, Tool::runs)?;
                format!(
                    "## In the kernel\n\nThe same load with `kernel.bpf_stats_enabled`, all \
                     programs of a tool together.\n\n{}\n",
                    report::programs(&programs)
                )
            }
            Table::Losses => format!(
                "## What is lost\n\nOutput to a file, beside a program that counts transitions \
                 by itself; sums of all rounds.\n\n{}\n",
                report::losses(&self.losses(at_most)?)
            ),
            Table::Idle => {
                let _counting = Stats::enable()?;
                let open = if quick { [100, 10_000] } else { [100, 100_000] };
                let plan = |hold| Plan { hold, ..at_most };
                let ours = |tool: Tool| !tool.runs() || tool.name == "tcptrace --json";
                let comparisons: Result<Vec<_>> = open
                    .into_iter()
                    .map(|hold| {
                        self.compare(&hold.to_string(), plan(hold), Output::Discarded, ours)
                    })
                    .collect();
                format!(
                    "## Beside open connections\n\n{connections} connections as fast as they \
                     go, beside others that stay open.\n\n{}\n",
                    report::idle(&comparisons?)
                )
            }
            Table::Promptness => format!(
                "## How soon\n\nStart and end under 1,000 connections each second; then a single \
                 connection on an idle host.\n\n{}\n",
                report::promptness(&self.promptness())
            ),
        })
    }

    fn losses(&self, at_most: Plan) -> Result<Vec<Comparison>> {
        let quick = self.choice.quick;
        let paced = |rate| Plan {
            connections: rate * if quick { 2 } else { 5 },
            rate,
            ..Plan::default()
        };
        let burst = Plan {
            hold: if quick { 10_000 } else { 50_000 },
            ..Plan::default()
        };
        let loads = [
            ("1,000/s".to_owned(), paced(1000)),
            ("5,000/s".to_owned(), paced(5000)),
            ("10,000/s".to_owned(), paced(10_000)),
            ("max".to_owned(), at_most),
            (format!("{} closed at once", burst.hold), burst),
        ];
        loads
            .into_iter()
            .map(|(name, plan)| {
                let prints = |tool: Tool| tool.prints != Prints::Nothing;
                self.compare(&name, plan, Output::Counted, prints)
            })
            .collect()
    }

    /// So many loads, beside each of which all tools that were asked for take turns.
    fn turns(&self) -> Vec<(Tool, Vec<Turns>)> {
        let tools: Vec<Tool> = self
            .tools
            .iter()
            .copied()
            .filter(|tool| tool.takes_turns())
            .collect();
        let mut all: Vec<_> = tools.iter().map(|tool| (*tool, Vec::new())).collect();
        for round in 0..usize::from(self.choice.rounds) * LOADS_PER_ROUND {
            match turns::measure(&tools, self.programs, round) {
                Ok(turns) => {
                    for ((_, all), turns) in all.iter_mut().zip(turns) {
                        all.push(turns);
                    }
                }
                Err(why) => eprintln!("turns, load {}: {why:#}", round + 1),
            }
        }
        all
    }

    /// All rounds of one load, for the tools that `wanted` picks.
    fn compare(
        &self,
        load: &str,
        plan: Plan,
        output: Output,
        wanted: impl Fn(Tool) -> bool,
    ) -> Result<Comparison> {
        let mut series: Vec<Series> = self
            .tools
            .iter()
            .filter(|tool| wanted(**tool))
            .map(|tool| Series {
                tool: *tool,
                samples: Vec::new(),
            })
            .collect();
        for round in 1..=self.choice.rounds {
            for series in &mut series {
                let name = series.tool.name;
                let sample = trial::measure(series.tool, self.programs, plan, output)
                    .inspect(|sample| {
                        eprintln!(
                            "{load}, round {round}, {name}: {:.0} connections/s, {} of {} reported",
                            sample.throughput, sample.reported, sample.expected
                        );
                    })
                    .inspect_err(|why| eprintln!("{load}, round {round}, {name}: {why:#}"));
                series.samples.push(sample.ok());
            }
        }
        if series
            .iter()
            .all(|series| series.samples.iter().all(Option::is_none))
        {
            bail!("no trial succeeded");
        }
        Ok(Comparison {
            load: load.to_owned(),
            series,
        })
    }

    fn promptness(&self) -> Vec<(Tool, Vec<Promptness>)> {
        let prints = |tool: &&Tool| tool.prints != Prints::Nothing;
        let mut tools: Vec<_> = self
            .tools
            .iter()
            .filter(prints)
            .map(|tool| (*tool, Vec::new()))
            .collect();
        for round in 1..=self.choice.rounds {
            for (tool, trials) in &mut tools {
                eprintln!("promptness, round {round}, {}", tool.name);
                match trial::promptness(*tool, self.programs) {
                    Ok(trial) => trials.push(trial),
                    Err(why) => eprintln!("{why:#}"),
                }
            }
        }
        tools
    }

    /// What all of it was measured on, and what was not there to be measured.
    fn machine(&self) -> Result<String> {
        let processors = std::thread::available_parallelism()?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut text = format!(
            "Linux {}, {processors} processors; medians of {} interleaved rounds [least-most].\n\n",
            kernel.trim_end(),
            self.choice.rounds
        );
        for tool in &self.tools {
            if let Some((program, package)) = tool.package() {
                writeln!(text, "- {program}: {package} {}", version(package))?;
            }
        }
        for (tool, why) in &self.absent {
            writeln!(text, "- {} does not run here: {why}", tool.name)?;
        }
        Ok(text + "\n")
    }
}

/// The peers need it and do not mount it. This is seen by us and by what we start alone.
fn mount_tracefs() -> Result<()> {
    if Path::new("/sys/kernel/tracing/events").exists() {
        return Ok(());
    }
    workspace::run(Command::new("mount").args([
        "-t",
        "tracefs",
        "tracefs",
        "/sys/kernel/tracing",
    ]))?;
    Ok(())
}

/// The version of an installed package, as far as the system can tell.
fn version(package: &str) -> String {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Version}", package])
        .output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// Has the kernel count runs of programs until dropped.
struct Stats {
    before: String,
}

impl Stats {
    fn enable() -> Result<Self> {
        let before = fs::read_to_string(STATS)?;
        fs::write(STATS, "1").with_context(|| format!("cannot write {STATS}"))?;
        Ok(Self { before })
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(why) = fs::write(STATS, &self.before) {
            eprintln!("{STATS} stays 1: {why}");
        }
    }
}
