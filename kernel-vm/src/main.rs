//! `cargo xtask vm`: the kernel tests on distribution kernels, in virtual machines.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod docs;
mod report;
mod run;
mod suite;

use std::fs;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Parser as _;
use kernel_vm::arch::{self, Arch};
use kernel_vm::archive::Archive;
use kernel_vm::emulator::Emulator;
use kernel_vm::guest::Machine;
use kernel_vm::host;
use kernel_vm::kernel::Kernel;

use run::Run;
use suite::{How, run_on};
use toolchain::build::{self, Built, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace::{self, Outcome as Step};

/// One of each series that differs in what it offers to a tracer.
const SERIES: [&str; 8] = ["5.10", "6.1", "6.12", "6.16", "6.18", "7.0", "7.2", "7.3"];

/// What `--smoke` boots: the oldest and the newest.
const SMOKE: [&str; 2] = ["5.10", "newest"];

/// A kernel that lets nobody trace says so; this is told to the newest.
const LOCKED_DOWN: &str = "lockdown=confidentiality";

/// Run the kernel tests on other kernels, in virtual machines
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask vm", bin_name = "cargo xtask vm")]
struct Args {
    /// Kernels: a series as in 6.12, a point version as in 6.12.107, or newest [default: one of
    /// each series that differs]
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// What the machines are; the kernels and the tests are for that
    #[arg(long, default_value = "amd64")]
    arch: Arch,
    /// Run only tests with this in their names
    #[arg(short, long, value_name = "NAME")]
    test: Option<String>,
    /// Run each test so many times, for what goes wrong seldom
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    times: u16,
    /// Processors of each machine: 1, whose clock does not depend on the host's load, or 2, on
    /// which races happen
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1],
          value_parser = clap::value_parser!(u8).range(1..=2))]
    cpus: Vec<u8>,
    /// Run once with each of these kinds of accept hooks alone: fentry, kprobe, kretprobe,
    /// tracepoint
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    hooks: Vec<String>,
    /// Run once with each of these on the kernel's command line, as in lockdown=confidentiality
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    boot: Vec<String>,
    /// How many machines run at the same time [default: as many as there are processors]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    jobs: Option<u8>,
    /// Write docs/kernels.md from what this run finds, unless a test fails
    #[arg(long)]
    write_docs: bool,
    /// Run only the short tests of what depends on the kernel; without VERSION, on the oldest kernel, the
    /// newest, and the newest locked down, and a kernel that cannot be had is skipped
    #[arg(long)]
    smoke: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    workspace::conclude(&if args.smoke && args.versions.is_empty() {
        smoke(args.test.as_deref())
    } else {
        run(&args)
    })
}

/// Boots each kernel, and fails if any test fails on any.
fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Shown)?;
    let archive = host::open_archive(args.arch)?;
    let emulator = Emulator::find(args.arch, &archive)?;
    let versions: Vec<&str> = if args.versions.is_empty() {
        SERIES.to_vec()
    } else {
        args.versions.iter().map(String::as_str).collect()
    };
    let (kernels, missing) = prepare_kernels(&archive, &versions);
    let target = args.arch.target();
    target.map_or(Ok(()), arch::ensure_target)?;
    let built = build::build(Profile::Release, target, Progress::Shown)?;
    let machines: Vec<_> = kernels
        .iter()
        .flat_map(|kernel| machines(kernel, args))
        .collect();
    let how = How {
        filter: args.test.as_deref(),
        smoke: args.smoke,
        times: args.times,
        jobs: args.jobs,
        tries_kinds: args.write_docs,
    };
    let runs = run_on(&archive, &emulator, &machines, &built, how)?;
    if runs.is_empty() && !machines.is_empty() {
        bail!("no test has that in its name");
    }

    eprint!("\n{}", report::table(&runs));
    eprintln!("\n{} s in all", start.elapsed().as_secs());
    conclude(&runs, &missing)?;
    if args.write_docs {
        let path = workspace::root().join("docs/kernels.md");
        fs::write(&path, docs::text(&runs, &today()?))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
}

/// As `date` prints it.
fn today() -> Result<String> {
    let date = Command::new("date").args(["-u", "+%F"]).output()?;
    Ok(String::from_utf8(date.stdout)?.trim().to_owned())
}

/// Boots the kernels of [`SMOKE`], and fails if any test fails on any.
fn smoke(filter: Option<&str>) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Hidden)?;
    let built = build::build(Profile::Release, None, Progress::Hidden)?;
    let steps = smoke_machines(&built, filter);
    eprintln!("\n{} s in all", start.elapsed().as_secs());
    workspace::summarize(steps)
}

/// How each machine went. A kernel that cannot be had is skipped: an outage of a mirror is no fault of
/// the project's.
fn smoke_machines(built: &Built, filter: Option<&str>) -> Vec<(String, Result<Step>)> {
    let skipped = |version: &str, why: &str| {
        let name = format!("Linux {version}");
        (name, Ok(Step::Skipped(why.to_owned())))
    };
    let opened = host::open_archive(Arch::Amd64).and_then(|archive| {
        let emulator = Emulator::find(Arch::Amd64, &archive)?;
        Ok((archive, emulator))
    });
    let (archive, emulator) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let why = format!("{error:#}");
            return SMOKE.map(|version| skipped(version, &why)).into();
        }
    };
    let (kernels, missing) = prepare_kernels(&archive, &SMOKE);
    let best = |kernel| Machine {
        arch: Arch::Amd64,
        kernel,
        cpus: 1,
        hooks: None,
        boot: None,
    };
    let mut machines: Vec<_> = kernels.iter().map(best).collect();
    machines.extend(kernels.last().map(|kernel| Machine {
        boot: Some(LOCKED_DOWN),
        ..best(kernel)
    }));
    let mut steps: Vec<_> = missing
        .iter()
        .map(|(version, why)| skipped(version, why))
        .collect();
    let how = How {
        filter,
        smoke: true,
        times: 1,
        jobs: None,
        tries_kinds: false,
    };
    match run_on(&archive, &emulator, &machines, built, how) {
        Ok(runs) if runs.is_empty() => {
            let why = "none of their tests has that in its name".to_owned();
            steps.push(("virtual machines".to_owned(), Ok(Step::Skipped(why))));
        }
        Ok(runs) => {
            eprintln!("\n{}", report::table(&runs));
            steps.extend(runs.iter().map(step));
        }
        Err(error) => steps.push(("virtual machines".to_owned(), Err(error))),
    }
    steps
}

fn step(run: &Run) -> (String, Result<Step>) {
    let name = format!(
        "Linux {} ({} in {} s)",
        run.machine,
        run.counts(),
        run.seconds
    );
    let result = if run.has_failed() {
        Err(anyhow!("tests failed\n{}", run.failures()))
    } else {
        Ok(Step::Passed)
    };
    (name, result)
}

/// Each combination; without `--hooks`, the kernel's best.
fn machines<'run>(kernel: &'run Kernel, args: &'run Args) -> Vec<Machine<'run>> {
    let mut machines = Vec::new();
    for &cpus in &args.cpus {
        for hooks in each(&args.hooks) {
            for boot in each(&args.boot) {
                machines.push(Machine {
                    arch: args.arch,
                    kernel,
                    cpus,
                    hooks,
                    boot,
                });
            }
        }
    }
    machines
}

/// One after the other, or once without.
fn each(list: &[String]) -> Vec<Option<&str>> {
    if list.is_empty() {
        return vec![None];
    }
    list.iter().map(|one| Some(one.as_str())).collect()
}

fn conclude(runs: &[Run], missing: &[(String, String)]) -> Result<()> {
    for (version, why) in missing {
        eprintln!("not run: Linux {version}: {why}");
    }
    let failed = runs.iter().filter(|run| run.has_failed()).count();
    match (failed, missing.len()) {
        (0, 0) => Ok(()),
        (0, _) => bail!("not all kernels could be had"),
        (failed, _) => bail!("tests failed on {failed} of {} kernels", runs.len()),
    }
}

/// Those that can be had, and the others with the reason.
fn prepare_kernels(archive: &Archive, versions: &[&str]) -> (Vec<Kernel>, Vec<(String, String)>) {
    let mut kernels = Vec::new();
    let mut missing = Vec::new();
    for &version in versions {
        match Kernel::prepare(archive, version) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => missing.push((version.to_owned(), format!("{error:#}"))),
        }
    }
    (kernels, missing)
}
