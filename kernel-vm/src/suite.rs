//! The kernel tests inside the machines.

use std::cmp::Reverse;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::run::{Outcome, Run};
use kernel_vm::archive::Archive;
use kernel_vm::emulator::Emulator;
use kernel_vm::guest::Machine;
use kernel_vm::host;
use kernel_vm::initramfs::Initramfs;
use kernel_vm::kernel::Kernel;
use kernel_vm::library;
use toolchain::build::{self, Built, Profile, Progress};

/// The kinds of accept hooks that `tcptrace --hooks` takes, the best first.
const KINDS: [&str; 4] = ["fentry", "kprobe", "kretprobe", "tracepoint"];

/// What the guest runs besides our own: where it looks for it, and its name.
const PROGRAMS: [(&str, &str); 4] = [
    ("bin", "busybox"),
    ("bin", "ss"),
    ("usr/sbin", "ip"),
    ("usr/sbin", "tc"),
];

/// Tests and the module they need.
const NEEDS: [(&str, &str); 1] = [("prompt::unanswered_connect", "veth")];

/// How much to run, and how much of it at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'args> {
    /// Only tests with this in their names
    pub(super) filter: Option<&'args str>,
    /// Only the short ones of what depends on the kernel
    pub(super) smoke: bool,
    /// How often each of them
    pub(super) times: u16,
    /// [`None`]: as many machines as there are processors
    pub(super) jobs: Option<u8>,
    /// Whether to ask what each kind of accept hook knows
    pub(super) tries_kinds: bool,
}

/// Runs the tests on each machine. Empty if no test is wanted.
pub(super) fn run_on(
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
