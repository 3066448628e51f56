//! `cargo xtask bench`: what tcptrace costs, beside other tracers, the floor, and none.
//!
//! Every trial has a load of its own in a network namespace of its own. Rounds are interleaved, so
//! that a machine that grows slower does so for all, and ratios are taken within a round.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod dialogue;
mod load;
mod report;
mod tool;
mod trial;
mod turns;
mod vm;

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use load::Plan;
use report::{Comparison, Series};
use tool::{Prints, Programs, Tool};
use toolchain::bpf_toolchain::{self, BpfCompiler};
use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace;
use trial::{Output, Promptness};
use turns::Turns;

/// Where the tables go.
const PAGE: &str = "docs/performance.md";
const END: &str = "<!-- end -->\n";

/// A part of the page that is written anew.
#[derive(Clone, Copy, Debug)]
enum Section {
    /// What is measured on this machine
    Here,
    /// What is measured in virtual machines
    Vm,
}

impl Section {
    /// The line before it.
    fn begin(self) -> &'static str {
        match self {
            Self::Here => "<!-- written by cargo xtask bench --write-docs -->\n",
            Self::Vm => "<!-- written by cargo xtask bench --vm --write-docs -->\n",
        }
    }
}

/// Loads that tools take turns beside, for each round of trials.
const LOADS_PER_ROUND: usize = 6;

/// Makes the kernel count runs of programs, and their time.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Measure tcptrace beside other tracers and beside none; needs root
#[derive(Debug, clap::Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    choice: Choice,
    /// Write the tables into docs/performance.md
    #[arg(long)]
    write_docs: bool,
    #[command(flatten)]
    vm: vm::Choice,
}

/// What this program does as another process.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Runs all trials, as root; the tables go to standard output
    #[command(hide = true)]
    Trials {
        #[command(flatten)]
        choice: Choice,
        #[command(flatten)]
        programs: Programs,
    },
    /// One end of the load, and parent of the other
    #[command(hide = true)]
    Client(Plan),
    /// The other end
    #[command(hide = true)]
    Server(Plan),
    /// All that is measured in a virtual machine
    #[command(hide = true)]
    Guest,
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
struct Choice {
    /// How often each trial is made
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Fewer connections: for a first look
    #[arg(long)]
    quick: bool,
    /// Only these tools, beside none: tcptrace, tcplife, ...
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these tables: turns, speed, programs, losses, idle, promptness
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tables: Vec<Table>,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Table {
    /// In turns beside one load
    Turns,
    /// As many connections as can be
    Speed,
    /// What the kernel counts of the programs
    Programs,
    /// Lines beside what there was to be told
    Losses,
    /// Beside connections that stay open
    Idle,
    /// How soon something is shown
    Promptness,
}

impl Table {
    const ALL: [Self; 6] = [
        Self::Turns,
        Self::Speed,
        Self::Programs,
        Self::Losses,
        Self::Idle,
        Self::Promptness,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

fn main() -> ExitCode {
    workspace::conclude(&run(&Args::parse()))
}

/// Builds, installs the peers, and measures.
fn run(args: &Args) -> Result<()> {
    match &args.part {
        None if args.vm.is_wanted() => vm::run(&args.vm, args.write_docs),
        None => prepare_and_measure(args),
        Some(Part::Trials { choice, programs }) => Bench::new(choice, programs)?.run(),
        Some(Part::Client(plan)) => load::client(*plan),
        Some(Part::Server(plan)) => load::server(*plan),
        Some(Part::Guest) => vm::guest(),
    }
}

fn prepare_and_measure(args: &Args) -> Result<()> {
    setup::setup(Found::Hidden)?;
    let choice = &args.choice;
    choice.check()?;
    for tool in choice.tools() {
        if let Some((program, package)) = tool.package() {
            ensure_peer(program, package);
        }
    }
    let programs = build()?;
    let mut trials = workspace::as_root("unshare");
    let rounds = choice.rounds.to_string();
    // Whoever starts this in the background of a script has SIGINT ignored, and so would have every tool
    // that does not ask for it.
    trials
        .args(["--mount", "--", "env", "--default-signal=INT"])
        .arg(env::current_exe()?)
        .args(["trials", "--rounds", &rounds])
        .args(choice.quick.then_some("--quick"));
    for name in &choice.only {
        trials.args(["--only", name]);
    }
    for table in &choice.tables {
        trials.args(["--tables", &table.name()]);
    }
    trials
        .arg(&programs.tcptrace)
        .arg(&programs.floor)
        .arg(&programs.counter)
        .arg(&programs.object)
        .arg(&programs.folder)
        .stdout(Stdio::piped());
    let output = trials.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("the trials failed ({})", output.status);
    }
    let tables = String::from_utf8(output.stdout)?;
    eprint!("\n{tables}");
    if args.write_docs {
        write_docs(Section::Here, &tables)?;
    }
    Ok(())
}

/// A peer that cannot be had is left out, and the report says so.
fn ensure_peer(program: &str, package: &str) {
    if workspace::has_program(program) || !workspace::has_program("apt-get") {
        return;
    }
    eprintln!("installing {package} with apt-get...");
    if let Err(why) = setup::apt_install(&[package]) {
        eprintln!("{program} is left out: {why:#}");
    }
}

/// Compiles all that is measured or measures.
fn build() -> Result<Programs> {
    let folder = folder()?;
    Ok(Programs {
        tcptrace: build::build(Profile::Release, None, Progress::Shown)?.tcptrace,
        floor: build_floor()?,
        counter: build::executable("bench", "count", &["--release", "--features", "count"])?,
        object: build_object(&folder)?,
        folder,
    })
}

fn build_floor() -> Result<PathBuf> {
    build::executable("bench", "floor", &["--release", "--features", "floor"])
}

/// Where this program puts files.
fn folder() -> Result<PathBuf> {
    let folder = workspace::root().join("target/bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Compiles the floor's eBPF side, as `tcptrace/build.rs` does tcptrace's.
fn build_object(folder: &Path) -> Result<PathBuf> {
    let compiler = BpfCompiler::find()?;
    let linker = bpf_toolchain::find_linker(workspace::root())?.canonicalize()?;
    let libraries = bpf_toolchain::linker_libraries(&compiler, folder)
        .map_err(|why| anyhow::anyhow!("{why}"))?;
    let flags = [format!("-Clinker={}", linker.display())];
    let target = folder.join("ebpf");
    let mut cargo = compiler.cargo("build", env::consts::ARCH, &flags);
    cargo
        .args(["--bin", "floor", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(workspace::root())
        .env("LD_LIBRARY_PATH", libraries);
    workspace::run(&mut cargo)?;
    Ok(target.join(bpf_toolchain::TARGET).join("release/floor"))
}

/// Puts the tables between the marks.
fn write_docs(section: Section, tables: &str) -> Result<()> {
    let path = workspace::root().join(PAGE);
    let page = fs::read_to_string(&path)?;
    let begin = section.begin();
    let marks = page.split_once(begin).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = marks.with_context(|| format!("{PAGE} has no marks"))?;
    fs::write(&path, format!("{before}{begin}\n{tables}\n{END}{after}"))?;
    eprintln!("written: {}", path.display());
    Ok(())
}

impl Choice {
    fn check(&self) -> Result<()> {
        for name in &self.only {
            if !tool::ALL
                .iter()
                .any(|tool| tool.name.contains(name.as_str()))
            {
                let names = tool::ALL.map(|tool| tool.name);
                bail!("no tool is called {name}; there are: {}", names.join(", "));
            }
        }
        Ok(())
    }

    /// The tools that were asked for, and none at all, which the others are compared with.
    fn tools(&self) -> Vec<Tool> {
        let wanted = |tool: &Tool| {
            let named = |name: &String| tool.name.contains(name.as_str());
            self.only.is_empty() || tool.name == "none" || self.only.iter().any(named)
        };
        tool::ALL.into_iter().filter(wanted).collect()
    }

    fn wants(&self, table: Table) -> bool {
        self.tables.is_empty() || self.tables.contains(&table)
    }
}

/// All the trials.
struct Bench<'a> {
    choice: &'a Choice,
    programs: &'a Programs,
    tools: Vec<Tool>,
    absent: Vec<(Tool, String)>,
}

impl<'a> Bench<'a> {
    fn new(choice: &'a Choice, programs: &'a Programs) -> Result<Self> {
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

    fn run(&self) -> Result<()> {
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
                            "{load}, round {round}, {name}: {:.0} connections/s, {} of {} told",
                            sample.throughput, sample.told, sample.expected
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
