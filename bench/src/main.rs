//! `cargo xtask bench`: what tcptrace costs, beside other tracers, the floor, and none.
//!
//! Every trial has a load of its own in a network namespace of its own. Rounds are interleaved, so
//! that a machine that grows slower does so for all, and ratios are taken within a round.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod choice;
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

use choice::Choice;
use load::Plan;
use tool::Programs;
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
