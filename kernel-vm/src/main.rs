//! `cargo xtask vm`: the kernel tests on distribution kernels, in virtual machines.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod docs;
mod report;

use std::cmp::Reverse;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser as _;
use kernel_vm::arch::{self, Arch};
use kernel_vm::archive::Archive;
use kernel_vm::emulator::Emulator;
use kernel_vm::guest::Machine;
use kernel_vm::host;
use kernel_vm::initramfs::Initramfs;
use kernel_vm::kernel::Kernel;
use kernel_vm::library;

use report::{Outcome, Run};
use toolchain::build::{self, Built, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace::{self, Outcome as Step};

/// One of each series that differs in what it offers to a tracer.
const SERIES: [&str; 8] = ["5.10", "6.1", "6.12", "6.16", "6.18", "7.0", "7.2", "7.3"];

/// What `--smoke` boots: the oldest and the newest.
const SMOKE: [&str; 2] = ["5.10", "newest"];

/// A kernel that lets nobody trace says so; this is told to the newest.
const LOCKED_DOWN: &str = "lockdown=confidentiality";

/// The kinds of accept hooks that `tcptrace --hooks` takes, the best first.
const KINDS: [&str; 4] = ["fentry", "kprobe", "kretprobe", "tracepoint"];

/// What the guest runs besides our own: where it looks for it, and its name.
const PROGRAMS: [(&str, &str); 3] = [("bin", "busybox"), ("usr/sbin", "ip"), ("usr/sbin", "tc")];

/// Tests and the module they need.
const NEEDS: [(&str, &str); 1] = [("prompt::unanswered_connect", "veth")];

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
        fs::write(&path, docs::text(&runs))?;
        eprintln!("written: {}", path.display());
    }
    Ok(())
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

/// How much to run, and how much of it at a time.
#[derive(Clone, Copy, Debug)]
struct How<'args> {
    /// Only tests with this in their names
    filter: Option<&'args str>,
    /// Only the short ones of what depends on the kernel
    smoke: bool,
    /// How often each of them
    times: u16,
    /// [`None`]: as many machines as there are processors
    jobs: Option<u8>,
    /// Whether to ask what each kind of accept hook knows
    tries_kinds: bool,
}

/// Runs the tests on each machine. Empty if no test is wanted.
fn run_on(
    archive: &Archive,
    emulator: &Emulator,
    machines: &[Machine<'_>],
    built: &Built,
    how: How<'_>,
) -> Result<Vec<Run>> {
    let executable = build::build_kernel_tests(built)?;
    let tests = if built.target.is_none() {
        tests(&executable, how)?
    } else {
        // What is compiled for another machine cannot be asked here.
        let here = build::build(Profile::Release, None, Progress::Shown)?;
        tests(&build::build_kernel_tests(&here)?, how)?
    };
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let programs = match built.target {
        None => None,
        Some(_) => Some(archive.programs("programs", &["busybox-static", "iproute2"])?),
    };
    let logs = built.target_folder()?.join("vm");
    let guest = Guest {
        emulator,
        built,
        executable: &executable,
        programs: programs.as_deref(),
        tests: &tests,
        times: how.times,
        kinds: if how.tries_kinds { &KINDS } else { &[] },
        logs: &logs,
    };
    let jobs = match how.jobs {
        Some(jobs) => usize::from(jobs),
        None => thread::available_parallelism()?.get(),
    };
    guest.run_on(machines, jobs)
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

/// What runs inside the machines.
#[derive(Debug)]
struct Guest<'build> {
    emulator: &'build Emulator,
    built: &'build Built,
    /// The harness of the kernel tests
    executable: &'build Path,
    /// The packages of [`PROGRAMS`], unless they are this machine's
    programs: Option<&'build Path>,
    tests: &'build [String],
    /// How often each of them
    times: u16,
    /// To be tried one by one
    kinds: &'build [&'build str],
    /// Where each machine gets a folder
    logs: &'build Path,
}

impl Guest<'_> {
    /// In the order of the machines, however many run at a time.
    fn run_on(&self, machines: &[Machine<'_>], jobs: usize) -> Result<Vec<Run>> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<(usize, Run)>> {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(&machine) = machines.get(at) else {
                    return Ok(done);
                };
                let run = self.run(machine);
                done.push((at, run.with_context(|| format!("Linux {machine}"))?));
            }
        };
        let mut runs = thread::scope(|scope| -> Result<Vec<(usize, Run)>> {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let mut runs = Vec::new();
            for worker in workers {
                let done = worker
                    .join()
                    .map_err(|_panic| anyhow!("a thread panicked"))?;
                runs.extend(done?);
            }
            Ok(runs)
        })?;
        runs.sort_by_key(|(at, _)| *at);
        Ok(runs.into_iter().map(|(_, run)| run).collect())
    }

    fn run(&self, machine: Machine<'_>) -> Result<Run> {
        eprintln!("Linux {machine}: {} tests...", self.tests.len());
        let folder = self.logs.join(machine.to_string());
        fs::create_dir_all(&folder)?;
        let image = folder.join("initramfs.cpio");
        let (tests, skipped) = self.tests_for(machine.kernel);
        self.initramfs(machine.kernel, &tests)?.write(&image)?;

        let start = Instant::now();
        let mut said = machine.run(self.emulator, &image, &folder)?;
        if let (false, Some(why)) = (said.reached_tests(), &said.cut_short) {
            eprintln!("Linux {machine}: {why}, before any test; trying once more");
            said = machine.run(self.emulator, &image, &folder)?;
        }
        fs::remove_file(&image)?;
        let mut run = Run::parse(machine.to_string(), &tests, &said.results);
        run.seconds = start.elapsed().as_secs();
        let slowest = slowest(&tests, &said.took);
        if let Some(why) = said.cut_short {
            run.blame(&why);
        }
        run.tests.extend(skipped);
        let place = |name: &String| self.tests.iter().position(|test| test == name);
        run.tests.sort_by_key(|(name, _)| place(name));
        // In one piece: others may be printing theirs.
        eprintln!(
            "Linux {machine}: {} in {} s ({slowest}); log in {}\n{}",
            run.counts(),
            run.seconds,
            folder.display(),
            run.failures()
        );
        Ok(run)
    }

    /// The tests to run, and the outcome of the others.
    fn tests_for(&self, kernel: &Kernel) -> (Vec<&'_ str>, Vec<(String, Outcome)>) {
        let mut tests = Vec::new();
        let mut skipped = Vec::new();
        for name in self.tests {
            let lacking = NEEDS
                .into_iter()
                .find(|(test, module)| test == name && kernel.lacks.contains(module));
            match lacking {
                None => tests.push(name.as_str()),
                Some((_, module)) => {
                    let why = format!("the archive no longer has the module {module}");
                    skipped.push((name.clone(), Outcome::Skipped(why)));
                }
            }
        }
        (tests, skipped)
    }

    fn initramfs(&self, kernel: &Kernel, tests: &[&str]) -> Result<Initramfs> {
        let mut initramfs = Initramfs::default();
        for (folder, name) in PROGRAMS {
            let path = format!("{folder}/{name}");
            match self.programs {
                None => initramfs.program(&path, &host::program(name)?)?,
                Some(root) => add_foreign(&mut initramfs, &path, root, name)?,
            }
        }
        for (path, ours) in [
            ("bin/tcptrace", self.built.tcptrace.as_path()),
            ("bin/kernel-tests", self.executable),
        ] {
            match self.programs {
                None => initramfs.program(path, ours)?,
                // Linked statically.
                Some(_) => initramfs.copy(path, ours)?,
            }
        }
        for module in &kernel.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            initramfs.file(&format!("modules/{name}"), fs::read(module)?, 0o644);
        }
        initramfs.file("init", include_bytes!("init.sh").to_vec(), 0o755);
        initramfs.file("kinds", self.kinds.join("\n").into_bytes(), 0o644);
        let tests = vec![tests.join("\n"); self.times.into()].join("\n");
        initramfs.file("tests", tests.into_bytes(), 0o644);
        Ok(initramfs)
    }
}

/// Adds a program of packages for another machine, with its libraries where its loader looks.
fn add_foreign(initramfs: &mut Initramfs, path: &str, root: &Path, name: &str) -> Result<()> {
    let folders = ["usr/bin", "usr/sbin", "bin", "sbin"];
    let program = folders
        .into_iter()
        .map(|folder| root.join(folder).join(name))
        .find(|program| program.is_file())
        .with_context(|| format!("its packages have no {name}"))?;
    initramfs.copy(path, &program)?;
    for (name, library) in library::libraries(&program, root)? {
        initramfs.copy(&format!("lib/{name}"), &library)?;
    }
    Ok(())
}

/// Those that took the host longest, as in `abuse::two_tracers 41 s, ...`.
fn slowest(tests: &[&str], took: &[Duration]) -> String {
    const NAMED: usize = 12;
    let mut all: Vec<_> = tests.iter().cycle().zip(took).collect();
    all.sort_by_key(|&(_, &took)| Reverse(took));
    let named = all.iter().take(NAMED);
    let named: Vec<_> = named
        .map(|(test, took)| format!("{test} {} s", took.as_secs()))
        .collect();
    named.join(", ")
}

fn tests(executable: &Path, how: How<'_>) -> Result<Vec<String>> {
    let mut list = Command::new(executable);
    list.arg("--list").args(how.filter);
    if how.smoke {
        list.env("TCPTRACE_TEST_SMOKE", "1");
    }
    let output = list.output()?;
    Ok(String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
        .collect())
}
