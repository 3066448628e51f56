//! `cargo xtask soak`: the release binary on the real kernel, for as long as one likes.
//!
//! One tracer runs from beginning to end, beside a random mixture of everything that connections,
//! processes and other tracers do. All of its lines are read and checked as they come, against what
//! the processes of the load know of themselves; at the end their number, against what the kernel
//! has counted, and what is left in memory and in the maps.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod checker;
mod claim;
mod disturb;
mod health;
mod line;
mod maps;
mod oracle;
mod peer;
mod random;
mod stream;
mod trial;
mod workload;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use rustix::time::ClockId;

use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace;

/// Trace a long and rough mixture of connections, and check every record; needs root
#[derive(Debug, clap::Parser)]
#[command(
    name = "cargo xtask soak",
    bin_name = "cargo xtask soak",
    args_conflicts_with_subcommands = true
)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// How long
    #[arg(default_value_t = 30.0, value_parser = minutes)]
    minutes: f64,
    /// Do the same once more, as far as chance decides: the seed that an earlier run has printed
    #[arg(long)]
    seed: Option<u64>,
    /// Keep all lines of the main tracer's
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Instead: processes that race on the same sockets, in rounds against the kernel's log and their own
    #[arg(long, conflicts_with_all = ["seed", "keep"])]
    adversary: bool,
}

fn minutes(text: &str) -> std::result::Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|why| format!("{why}"))?;
    if !(0.1..=100_000.0).contains(&minutes) {
        return Err("from 0.1 to 100000 minutes".to_owned());
    }
    Ok(minutes)
}

/// What this program does as another process.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// Directs everything, as root
    #[command(hide = true)]
    Trial(trial::Plan),
    /// One network namespace and what goes on in it
    #[command(hide = true)]
    Workload(workload::Plan),
}

fn main() -> ExitCode {
    workspace::conclude(&run(&Args::parse()))
}

/// Builds, and starts the trial as root.
fn run(args: &Args) -> Result<()> {
    match &args.part {
        None if args.adversary => race(args.minutes),
        None => prepare_and_try(args),
        Some(Part::Trial(plan)) => trial::run(plan),
        Some(Part::Workload(plan)) => workload::play(*plan),
    }
}

fn prepare_and_try(args: &Args) -> Result<()> {
    setup::setup(Found::Hidden)?;
    setup::ensure_network_tools()?;
    let tcptrace = build::build(Profile::Release, None, Progress::Shown)?.tcptrace;
    let seed = args.seed.map_or_else(chance, Ok)?;
    let mut trial = workspace::as_root("unshare");
    trial
        .args(["--mount", "--"])
        .arg(env::current_exe()?)
        .args(["trial", "--minutes", &args.minutes.to_string()])
        .args(["--seed", &seed.to_string(), "--tcptrace"])
        .arg(tcptrace);
    if let Some(keep) = &args.keep {
        trial.arg("--keep").arg(keep);
    }
    let status = trial.status().context("cannot start unshare")?;
    if !status.success() {
        bail!(
            "the soak failed; once more: cargo xtask soak {} --seed {seed}",
            args.minutes
        );
    }
    Ok(())
}

/// The kernel test of that name, for as long as asked for.
fn race(minutes: f64) -> Result<()> {
    setup::setup(Found::Hidden)?;
    setup::ensure_network_tools()?;
    let built = build::build(Profile::Release, None, Progress::Shown)?;
    let tests = build::build_kernel_tests(&built)?;
    let mut binary = OsString::from("TCPTRACE_BIN=");
    binary.push(&built.tcptrace);
    let mut tests_as_root = workspace::as_root("env");
    tests_as_root
        .arg(binary)
        .arg(format!("TCPTRACE_ADVERSARY_SECONDS={:.0}", minutes * 60.0))
        .arg(tests)
        .arg("adversary::")
        .current_dir(workspace::root().join("tcptrace"));
    workspace::run(&mut tests_as_root)?;
    Ok(())
}

fn chance() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::from(now.subsec_nanos()) ^ (u64::from(process::id()) << 32))
}

/// `CLOCK_MONOTONIC`, the clock of `mono_us`.
fn mono_us() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}
