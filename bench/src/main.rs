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
mod page;
mod programs;
mod report;
mod server;
mod tool;
mod trial;
mod trials;
mod turns;
mod vm;

use std::env;
use std::process::{ExitCode, Stdio};

use anyhow::{Result, bail};
use clap::Parser as _;

use load::Plan;
use tool::{Programs, Tool};
use toolchain::setup::{self, Found};
use toolchain::workspace;
use trials::Bench;

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
    /// Lines beside what there was to be reported
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
        Some(Part::Server(plan)) => server::run(*plan),
        Some(Part::Guest) => vm::guest(),
    }
}

fn prepare_and_measure(args: &Args) -> Result<()> {
    setup::setup(Found::Hidden)?;
    let choice = &args.choice;
    choice.check()?;
    for tool in choice.tools() {
        if let Some((program, package)) = tool.package() {
            programs::ensure_peer(program, package);
        }
    }
    let programs = programs::build()?;
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
        page::write_docs(page::Section::Here, &tables)?;
    }
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
