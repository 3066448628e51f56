//! `cargo xtask vm`: the kernel tests on distribution kernels, in virtual machines.

mod archive;
mod docs;
mod guest;
mod initramfs;
mod kernel;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::build::{self, Built, Profile, Progress};
use crate::setup::{self, Found};
use crate::workspace;
use archive::Archive;
use guest::Machine;
use initramfs::Initramfs;
use kernel::Kernel;
use report::{Outcome, Run};

/// One of each series that differs in what it offers to a tracer.
const SERIES: [&str; 8] = ["5.10", "6.1", "6.12", "6.16", "6.18", "7.0", "7.2", "7.3"];

/// What is needed besides the eBPF build: a program, and the package it is in.
const TOOLS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Tests and the module they need.
const NEEDS: [(&str, &str); 1] = [("prompt::unanswered_connect", "veth")];

/// What `cargo xtask vm` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels: a series as in 6.12, a point version as in 6.12.107, or newest [default: one of
    /// each series that differs]
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// Run only tests with this in their names
    #[arg(short, long, value_name = "NAME")]
    test: Option<String>,
    /// Processors of each machine: 1, whose clock does not depend on the host's load, or 2, on
    /// which races happen
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1],
          value_parser = clap::value_parser!(u8).range(1..=2))]
    cpus: Vec<u8>,
    /// Run once with each of these kinds of accept hooks alone: fentry, kprobe, kretprobe,
    /// tracepoint
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    hooks: Vec<String>,
    /// How many machines run at the same time
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// Write docs/kernels.md from what this run finds, unless a test fails
    #[arg(long)]
    write_docs: bool,
}

/// Boots each kernel, and fails if any test fails on any.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machines are x86-64 ones, which needs an x86-64 build");
    }
    let start = Instant::now();
    setup::setup(Found::Shown)?;
    ensure_tools()?;

    let archive = Archive::open(&workspace::root().join(".tools/vm"))?;
    let mut missing = Vec::new();
    let kernels = prepare_kernels(&archive, args, &mut missing);

    let built = build::build(Profile::Release, Progress::Shown)?;
    let executable = build_kernel_tests(&built)?;
    let tests = tests(&executable, args.test.as_deref())?;
    let logs = built
        .tcptrace
        .ancestors()
        .nth(2)
        .context("the build is in no target folder")?
        .join("vm");

    let guest = Guest {
        built: &built,
        executable: &executable,
        tests: &tests,
        logs: &logs,
    };
    let machines: Vec<_> = kernels
        .iter()
        .flat_map(|kernel| machines(kernel, args))
        .collect();
    let runs = guest.run_on(&machines, args.jobs)?;

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

/// Each combination; without `--hooks`, the kernel's best.
fn machines<'run>(kernel: &'run Kernel, args: &'run Args) -> Vec<Machine<'run>> {
    let all = args.hooks.iter().map(|hooks| Some(hooks.as_str()));
    let best = args.hooks.is_empty().then_some(None);
    let hooks: Vec<_> = all.chain(best).collect();
    let combine = |&cpus| hooks.iter().map(move |&hooks| (cpus, hooks));
    args.cpus
        .iter()
        .flat_map(combine)
        .map(|(cpus, hooks)| Machine {
            kernel,
            cpus,
            hooks,
        })
        .collect()
}

fn conclude(runs: &[Run], missing: &[String]) -> Result<()> {
    for why in missing {
        eprintln!("not run: {why}");
    }
    let failed = runs.iter().filter(|run| run.has_failed()).count();
    match (failed, missing.len()) {
        (0, 0) => Ok(()),
        (0, _) => bail!("not all kernels could be had"),
        (failed, _) => bail!("tests failed on {failed} of {} kernels", runs.len()),
    }
}

/// What cannot be had goes to `missing`, with the reason.
fn prepare_kernels(archive: &Archive, args: &Args, missing: &mut Vec<String>) -> Vec<Kernel> {
    let versions: Vec<&str> = if args.versions.is_empty() {
        SERIES.to_vec()
    } else {
        args.versions.iter().map(String::as_str).collect()
    };
    versions
        .into_iter()
        .filter_map(|version| match Kernel::prepare(archive, version) {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                missing.push(format!("Linux {version}: {error:#}"));
                None
            }
        })
        .collect()
}

/// What runs inside the machines.
#[derive(Debug)]
struct Guest<'build> {
    built: &'build Built,
    /// The harness of the kernel tests
    executable: &'build Path,
    tests: &'build [String],
    /// Where each machine gets a folder
    logs: &'build Path,
}

impl Guest<'_> {
    /// In the order of the machines, however many run at a time.
    fn run_on(&self, machines: &[Machine<'_>], jobs: u8) -> Result<Vec<Run>> {
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
        let said = machine.run(&image, &folder)?;
        fs::remove_file(&image)?;
        let mut run = Run::parse(machine.to_string(), &tests, &said.results);
        run.seconds = start.elapsed().as_secs();
        if let Some(why) = said.cut_short {
            run.blame(&why);
        }
        run.tests.extend(skipped);
        let place = |name: &String| self.tests.iter().position(|test| test == name);
        run.tests.sort_by_key(|(name, _)| place(name));
        let failures = run
            .tests
            .iter()
            .filter_map(|(name, outcome)| match outcome {
                Outcome::Failed(message) => {
                    Some(format!("{name}: FAILED\n{}\n\n", beginning(message)))
                }
                Outcome::Passed | Outcome::Skipped(_) => None,
            });
        // In one piece: others may be printing theirs.
        eprintln!(
            "Linux {machine}: {} in {} s; log in {}\n{}",
            run.counts(),
            run.seconds,
            folder.display(),
            failures.collect::<String>()
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
        let mut initramfs = Initramfs::new();
        initramfs.program("bin/busybox", &program("busybox")?)?;
        initramfs.program("usr/sbin/ip", &program("ip")?)?;
        initramfs.program("usr/sbin/tc", &program("tc")?)?;
        initramfs.program("bin/tcptrace", &self.built.tcptrace)?;
        initramfs.program("bin/kernel-tests", self.executable)?;
        for module in &kernel.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            initramfs.file(&format!("modules/{name}"), fs::read(module)?, 0o644);
        }
        initramfs.file("init", include_bytes!("init.sh").to_vec(), 0o755);
        initramfs.file("tests", tests.join("\n").into_bytes(), 0o644);
        Ok(initramfs)
    }
}

/// Some tests list everything they saw; the log has it all.
fn beginning(message: &str) -> String {
    const LINES: usize = 8;
    const WIDTH: usize = 240;
    let mut lines: Vec<String> = message
        .lines()
        .take(LINES)
        .map(|line| format!("    {}", line.chars().take(WIDTH).collect::<String>()))
        .collect();
    if message.lines().count() > LINES {
        lines.push("    ...".to_owned());
    }
    lines.join("\n")
}

fn ensure_tools() -> Result<()> {
    let mut packages: Vec<_> = TOOLS
        .into_iter()
        .filter(|(program, _)| !workspace::has_program(program))
        .map(|(_, package)| package)
        .collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    if !workspace::has_program("apt-get") {
        bail!("install these packages first: {}", packages.join(", "));
    }
    eprintln!("installing {} with apt-get...", packages.join(", "));
    setup::apt_install(&packages)
}

/// Where `name` is, in a folder of `PATH` or of those only root has in it.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no program {name}"))
}

/// The harness of the kernel tests, as `cargo xtask test` builds it.
fn build_kernel_tests(built: &Built) -> Result<PathBuf> {
    let mut cargo = workspace::cargo("test");
    cargo
        .args(["--workspace", "--exclude", "tcptrace-ebpf"])
        .args(["--features", "tcptrace/kernel-tests"])
        .args(["--test", "kernel", "--no-run"])
        .env("TCPTRACE_BPF_OBJECT", &built.bpf_object);
    workspace::cargo_messages(&mut cargo)?
        .iter()
        .filter(|message| message["target"]["name"] == "kernel")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}

fn tests(executable: &Path, filter: Option<&str>) -> Result<Vec<String>> {
    let output = Command::new(executable)
        .arg("--list")
        .args(filter)
        .output()?;
    let tests: Vec<_> = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
        .collect();
    if tests.is_empty() {
        bail!("no test has that in its name");
    }
    Ok(tests)
}
