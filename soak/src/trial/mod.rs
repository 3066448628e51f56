//! The soak from its beginning to its report.

mod faults;
mod folder;

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use crate::checker::{Checker, Numbers};
use crate::disturb::{self, Disturbances};
use crate::health::Health;
use crate::maps::{Left, Maps};
use crate::oracle::Oracle;
use crate::peer::Addresses;
use crate::random::Random;
use crate::stream::{self, Claims};
use faults::children_left;
use folder::Folder;
use toolchain::process::wait_until_idle;

/// Namespaces that are busy at the same time.
const WORKLOADS: usize = 3;

const SAMPLE_TURN: Duration = Duration::from_secs(2);
const PROGRESS_TURN: Duration = Duration::from_mins(1);

/// A tracer that is not ready by then has failed.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Until the kernel has done away with the last namespace and its sockets.
const CLEAR_LIMIT: Duration = Duration::from_mins(1);

/// A workload ends within a few seconds when it is told to.
const WORKLOAD_LIMIT: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Plan {
    #[arg(long)]
    minutes: f64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    tcptrace: PathBuf,
    #[arg(long)]
    keep: Option<PathBuf>,
}

/// Runs it all, and fails if anything was wrong.
pub(crate) fn run(plan: &Plan) -> Result<()> {
    eprintln!("{} minutes, seed {}", plan.minutes, plan.seed);
    let folder = Folder::new()?;
    let oracle = Oracle::begin(&folder.0.join("tracing"))?;
    let said_at_rest = said_at_rest(&plan.tcptrace)?;
    let mut trial = Trial::start(plan, &folder.0, &oracle)?;
    trial.play()?;
    let faults = trial.end(&oracle, &said_at_rest)?;
    if faults.is_empty() {
        eprintln!("nothing was wrong");
        return Ok(());
    }
    for (number, fault) in faults.iter().enumerate() {
        eprintln!("\n-- {}: {fault}", number + 1);
    }
    bail!(
        "{} things were wrong; the seed was {}",
        faults.len(),
        plan.seed
    );
}

/// What a tracer says on this kernel even if nothing happens.
fn said_at_rest(tcptrace: &Path) -> Result<Vec<String>> {
    let output = Command::new(tcptrace)
        .args(["--json", "--no-existing", "--duration", "100ms"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start the tracer")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        bail!("the tracer does not run here: {said}");
    }
    Ok(said.lines().map(str::to_owned).collect())
}

/// One of the load's namespaces. It ends when its input does.
struct Workload {
    process: Child,
    input: Option<ChildStdin>,
}

/// Everything while it runs.
struct Trial<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    tracer: Child,
    reader: Option<thread::JoinHandle<Result<Checker>>>,
    numbers: Arc<Mutex<Numbers>>,
    /// Transitions before the tracer was started, and when it had
    before: [u64; 2],
    claims: File,
    disturbances: Arc<Disturbances>,
    disturbers: Vec<thread::JoinHandle<()>>,
    health: Health,
    maps: Maps,
    workloads: Vec<Workload>,
    workloads_begun: u16,
    random: Random,
    begun: Instant,
    faults: Vec<String>,
}

impl<'a> Trial<'a> {
    /// Starts the main tracer and waits for its first line, then who disturbs it.
    fn start(plan: &'a Plan, folder: &'a Path, oracle: &Oracle) -> Result<Self> {
        let (claims_read, claims_written) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&claims_read, true)?;
        let disturbances = Arc::new(Disturbances::default());
        let before = oracle.count()?;
        let mut tracer = Command::new(&plan.tcptrace)
            .args(["--json", "--fail-on-loss"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("stderr"))?)
            .spawn()
            .context("cannot start the tracer")?;
        let stdout = tracer.stdout.take().context("it has no output")?;
        let checker = Checker::new(addresses_in_text(), Arc::clone(&disturbances.stops));
        let numbers = Arc::new(Mutex::new(Numbers::default()));
        let keep = plan.keep.as_ref().map(File::create).transpose()?;
        let reader = {
            let numbers = Arc::clone(&numbers);
            thread::spawn(move || {
                stream::read(stdout, keep, Claims::new(claims_read), checker, &numbers)
            })
        };
        let mut random = Random::new(plan.seed);
        let mut trial = Self {
            plan,
            folder,
            health: Health::of(tracer.id()),
            maps: Maps::of(tracer.id(), Vec::new())?,
            tracer,
            reader: Some(reader),
            numbers,
            before: [before; 2],
            claims: claims_written.into(),
            disturbances,
            disturbers: Vec::new(),
            workloads: Vec::new(),
            workloads_begun: 0,
            random: random.split(),
            begun: Instant::now(),
            faults: Vec::new(),
        };
        while trial.numbers().lines == 0 {
            if trial.begun.elapsed() > START_LIMIT || trial.tracer.try_wait()?.is_some() {
                bail!("the tracer does not start: {}", trial.said()?);
            }
            thread::sleep(Duration::from_millis(10));
        }
        trial.before[1] = oracle.count()?;
        trial.maps = Maps::of(trial.tracer.id(), addresses_in_records())?;
        trial.begin_disturbing(&mut random);
        Ok(trial)
    }

    fn begin_disturbing(&mut self, random: &mut Random) {
        let pid = Pid::from_child(&self.tracer);
        let (all, chance) = (Arc::clone(&self.disturbances), random.split());
        self.disturbers
            .push(thread::spawn(move || all.stop_and_resume(pid, chance)));
        let (all, chance) = (Arc::clone(&self.disturbances), random.split());
        let (tcptrace, folder) = (self.plan.tcptrace.clone(), self.folder.to_owned());
        self.disturbers.push(thread::spawn(move || {
            all.start_others(&tcptrace, &folder, chance);
        }));
    }

    fn numbers(&self) -> Numbers {
        *self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the tracer has said on standard error.
    fn said(&self) -> Result<String> {
        let said = fs::read(self.folder.join("stderr"))?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// Keeps the load going until the time is over, or the tracer is.
    fn play(&mut self) -> Result<()> {
        let time = Duration::from_secs_f64(self.plan.minutes * 60.0);
        let (mut sampled, mut shown) = (Instant::now(), Instant::now());
        self.begun = Instant::now();
        self.health.look()?;
        while self.begun.elapsed() < time {
            if let Some(status) = self.tracer.try_wait()? {
                self.faults.push(format!("the tracer has ended ({status})"));
                break;
            }
            self.tend_workloads()?;
            if sampled.elapsed() >= SAMPLE_TURN {
                sampled = Instant::now();
                self.health.look()?;
            }
            if shown.elapsed() >= PROGRESS_TURN {
                shown = Instant::now();
                self.show_progress()?;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Replaces those that are over.
    fn tend_workloads(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for mut workload in self.workloads.drain(..) {
            match workload.process.try_wait()? {
                None => left.push(workload),
                Some(status) if status.success() => {}
                Some(status) => self
                    .faults
                    .push(format!("a workload ended badly ({status})")),
            }
        }
        self.workloads = left;
        while self.workloads.len() < WORKLOADS {
            let workload = self.begin_workload()?;
            self.workloads.push(workload);
        }
        Ok(())
    }

    /// This thread is there to the end, as it has to be: with it the workload would die.
    fn begin_workload(&mut self) -> Result<Workload> {
        self.workloads_begun = self.workloads_begun.wrapping_add(1);
        let mut process = Command::new(env::current_exe()?)
            .args(["workload", "--seed", &self.random.next().to_string()])
            .args(["--number", &self.workloads_begun.to_string()])
            .args(["--run", &process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(self.claims.try_clone()?)
            .spawn()
            .context("cannot start a workload")?;
        let input = process.stdin.take();
        Ok(Workload { process, input })
    }

    fn show_progress(&mut self) -> Result<()> {
        let numbers = self.numbers();
        let sample = self.health.look()?;
        eprintln!(
            "{:.0} min: {} lines, {} lost, {} open and {} in TIME_WAIT, {} owners confirmed, \
             {} namespaces, {} KiB, {} files, {} faults; {}",
            self.begun.elapsed().as_secs_f64() / 60.0,
            numbers.lines,
            numbers.lost,
            numbers.open,
            numbers.waiting,
            numbers.confirmed,
            self.workloads_begun,
            sample.rss_kib,
            sample.files,
            numbers.faults,
            self.disturbances.done(),
        );
        Ok(())
    }

    /// Ends everything in order, and says what was wrong.
    fn end(mut self, oracle: &Oracle, said_at_rest: &[String]) -> Result<Vec<String>> {
        self.disturbances.over.store(true, Ordering::Release);
        for disturber in self.disturbers.drain(..) {
            disturber
                .join()
                .map_err(|_panic| anyhow!("a disturber panicked"))?;
        }
        self.end_workloads()?;
        let left = self.await_clear_maps();
        wait_until_idle(self.tracer.id(), CLEAR_LIMIT)?;
        self.health.look()?;
        let mut after = [oracle.shown()?; 2];
        kill_process(Pid::from_child(&self.tracer), Signal::INT)?;
        let status = disturb::wait(&mut self.tracer)?;
        after[1] = oracle.count()?;
        let said = self.said()?;
        if status.is_none() {
            self.faults.push("the tracer does not end".to_owned());
            self.tracer.kill()?;
        }
        let reader = self.reader.take().context("nobody has read")?;
        let mut checker = reader
            .join()
            .map_err(|_panic| anyhow!("the reader panicked"))??;
        let missed = oracle.missed()?;
        checker.finish(&missed);
        let missed = missed.len() as u64;
        self.check_end(&checker, status, &said, said_at_rest);
        self.check_count(&checker.numbers, after);
        match &left {
            Ok(left) => self.check_maps(left, missed),
            Err(why) => self
                .faults
                .push(format!("the maps cannot be read: {why:#}")),
        }
        self.faults.extend(self.health.faults());
        self.faults.extend(self.disturbances.faults());
        self.faults.extend(children_left()?);
        self.report(&checker.numbers, after, &left.unwrap_or_default());
        Ok(std::mem::take(&mut self.faults))
    }

    fn end_workloads(&mut self) -> Result<()> {
        for workload in &mut self.workloads {
            workload.input = None;
        }
        let start = Instant::now();
        for mut workload in self.workloads.drain(..) {
            while workload.process.try_wait()?.is_none() {
                if start.elapsed() > WORKLOAD_LIMIT {
                    self.faults.push("a workload does not end".to_owned());
                    workload.process.kill()?;
                    workload.process.wait()?;
                    break;
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    /// What is in the tracer's maps when everything has had the time to go.
    fn await_clear_maps(&self) -> Result<Left> {
        let start = Instant::now();
        loop {
            let left = self.maps.left()?;
            if left.is_nothing() || start.elapsed() > CLEAR_LIMIT {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.disturbances.over.store(true, Ordering::Release);
        // They have ended, unless something failed.
        let _ended = self.tracer.kill();
        let _waited = self.tracer.wait();
        for workload in &mut self.workloads {
            let _ended = workload.process.kill();
            let _waited = workload.process.wait();
        }
    }
}

/// How the text of the soak's IPv4 addresses ends, and how that of its IPv6 addresses begins.
fn addresses_in_text() -> [String; 2] {
    let addresses = Addresses::new(process::id(), 0);
    let [_, _, high, low] = addresses.v4.octets();
    let [first, second, third, fourth, ..] = addresses.v6.segments();
    [
        format!(".{high}.{low}"),
        format!("{first:x}:{second:x}:{third:x}:{fourth:x}:"),
    ]
}

/// The same as they stand in memory: all IPv4 addresses, and what IPv6 addresses have in common.
fn addresses_in_records() -> Vec<Vec<u8>> {
    let v4 = |workload| Addresses::new(process::id(), workload).v4.octets().to_vec();
    let v6 = Addresses::new(process::id(), 0).v6.octets()[..8].to_vec();
    (0..64).map(v4).chain([v6]).collect()
}
