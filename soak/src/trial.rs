//! The soak from its beginning to the verdict.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};

use super::disturb::{self, Disturbances};
use super::health::Health;
use super::maps::{Left, Maps};
use super::peer::Addresses;
use super::random::Random;
use super::story::{Numbers, Story};
use super::stream::{self, Claims};
use super::truth::Truth;
use toolchain::process::wait_until_idle;

/// Namespaces that are busy at the same time.
const SCENES: usize = 3;

const SAMPLE_TURN: Duration = Duration::from_secs(2);
const PROGRESS_TURN: Duration = Duration::from_mins(1);

/// A tracer that is not ready by then has failed.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Until the kernel has done away with the last namespace and its sockets.
const CLEAR_LIMIT: Duration = Duration::from_mins(1);

/// A scene ends within a few seconds when it is told to.
const SCENE_LIMIT: Duration = Duration::from_secs(30);

/// Exit status of the tracer when something was lost.
const LOST: i32 = 4;

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Plan {
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
pub(super) fn run(plan: &Plan) -> Result<()> {
    eprintln!("{} minutes, seed {}", plan.minutes, plan.seed);
    let folder = Folder::new()?;
    let truth = Truth::begin(&folder.0.join("tracing"))?;
    let said_at_rest = said_at_rest(&plan.tcptrace)?;
    let mut trial = Trial::start(plan, &folder.0, &truth)?;
    trial.play()?;
    let verdict = trial.end(&truth, &said_at_rest)?;
    if verdict.is_empty() {
        eprintln!("nothing was wrong");
        return Ok(());
    }
    for (number, fault) in verdict.iter().enumerate() {
        eprintln!("\n-- {}: {fault}", number + 1);
    }
    bail!(
        "{} things were wrong; the seed was {}",
        verdict.len(),
        plan.seed
    );
}

/// For this run's files. What is mounted in it goes with this process.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let folder = env::temp_dir().join(format!("tcptrace-soak-{}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for mounted in ["tracing", "tiny"] {
            // It need not have been mounted.
            let _not_there = Command::new("umount")
                .arg("--lazy")
                .arg(self.0.join(mounted))
                .stderr(Stdio::null())
                .status();
            let _not_there = fs::remove_dir(self.0.join(mounted));
        }
        for file in ["stderr", "other-stderr"] {
            let _not_there = fs::remove_file(self.0.join(file));
        }
        // Not with all that is in it: it may still be mounted.
        if let Err(why) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {why}", self.0.display());
        }
    }
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
struct Scene {
    process: Child,
    input: Option<ChildStdin>,
}

/// Everything while it runs.
struct Trial<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    tracer: Child,
    reader: Option<thread::JoinHandle<Result<Story>>>,
    numbers: Arc<Mutex<Numbers>>,
    /// Transitions before the tracer was started, and when it had
    before: [u64; 2],
    claims: File,
    disturbances: Arc<Disturbances>,
    disturbers: Vec<thread::JoinHandle<()>>,
    health: Health,
    maps: Maps,
    scenes: Vec<Scene>,
    scenes_begun: u16,
    random: Random,
    begun: Instant,
    faults: Vec<String>,
}

impl<'a> Trial<'a> {
    /// Starts the main tracer and waits for its first line, then who disturbs it.
    fn start(plan: &'a Plan, folder: &'a Path, truth: &Truth) -> Result<Self> {
        let (claims_read, claims_written) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&claims_read, true)?;
        let disturbances = Arc::new(Disturbances::default());
        let before = truth.count()?;
        let mut tracer = Command::new(&plan.tcptrace)
            .args(["--json", "--fail-on-loss"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(folder.join("stderr"))?)
            .spawn()
            .context("cannot start the tracer")?;
        let stdout = tracer.stdout.take().context("it has no output")?;
        let story = Story::new(addresses_in_text(), Arc::clone(&disturbances.stops));
        let numbers = Arc::new(Mutex::new(Numbers::default()));
        let keep = plan.keep.as_ref().map(File::create).transpose()?;
        let reader = {
            let numbers = Arc::clone(&numbers);
            thread::spawn(move || {
                stream::read(stdout, keep, Claims::new(claims_read), story, &numbers)
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
            scenes: Vec::new(),
            scenes_begun: 0,
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
        trial.before[1] = truth.count()?;
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
            self.tend_scenes()?;
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
    fn tend_scenes(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for mut scene in self.scenes.drain(..) {
            match scene.process.try_wait()? {
                None => left.push(scene),
                Some(status) if status.success() => {}
                Some(status) => self.faults.push(format!("a scene ended badly ({status})")),
            }
        }
        self.scenes = left;
        while self.scenes.len() < SCENES {
            let scene = self.begin_scene()?;
            self.scenes.push(scene);
        }
        Ok(())
    }

    /// This thread is there to the end, as it has to be: with it the scene would die.
    fn begin_scene(&mut self) -> Result<Scene> {
        self.scenes_begun = self.scenes_begun.wrapping_add(1);
        let mut process = Command::new(env::current_exe()?)
            .args(["scene", "--seed", &self.random.next().to_string()])
            .args(["--number", &self.scenes_begun.to_string()])
            .args(["--run", &process::id().to_string()])
            .stdin(Stdio::piped())
            .stdout(self.claims.try_clone()?)
            .spawn()
            .context("cannot start a scene")?;
        let input = process.stdin.take();
        Ok(Scene { process, input })
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
            self.scenes_begun,
            sample.rss_kib,
            sample.files,
            numbers.faults,
            self.disturbances.done(),
        );
        Ok(())
    }

    /// Ends everything in order, and says what was wrong.
    fn end(mut self, truth: &Truth, said_at_rest: &[String]) -> Result<Vec<String>> {
        self.disturbances.over.store(true, Ordering::Release);
        for disturber in self.disturbers.drain(..) {
            disturber
                .join()
                .map_err(|_panic| anyhow!("a disturber panicked"))?;
        }
        self.end_scenes()?;
        let left = self.await_clear_maps();
        wait_until_idle(self.tracer.id(), CLEAR_LIMIT)?;
        self.health.look()?;
        let mut after = [truth.shown()?; 2];
        kill_process(Pid::from_child(&self.tracer), Signal::INT)?;
        let status = disturb::wait(&mut self.tracer)?;
        after[1] = truth.count()?;
        let said = self.said()?;
        if status.is_none() {
            self.faults.push("the tracer does not end".to_owned());
            self.tracer.kill()?;
        }
        let reader = self.reader.take().context("nobody has read")?;
        let mut story = reader
            .join()
            .map_err(|_panic| anyhow!("the reader panicked"))??;
        let hidden = truth.hidden()?;
        story.finish(&hidden);
        let hidden = hidden.len() as u64;
        self.judge(&story, status, &said, said_at_rest);
        self.judge_count(&story.numbers, after);
        match &left {
            Ok(left) => self.judge_maps(left, hidden),
            Err(why) => self
                .faults
                .push(format!("the maps cannot be read: {why:#}")),
        }
        self.faults.extend(self.health.faults());
        self.faults.extend(self.disturbances.faults());
        self.faults.extend(children_left()?);
        self.report(&story.numbers, after, &left.unwrap_or_default());
        Ok(std::mem::take(&mut self.faults))
    }

    fn end_scenes(&mut self) -> Result<()> {
        for scene in &mut self.scenes {
            scene.input = None;
        }
        let start = Instant::now();
        for mut scene in self.scenes.drain(..) {
            while scene.process.try_wait()?.is_none() {
                if start.elapsed() > SCENE_LIMIT {
                    self.faults.push("a scene does not end".to_owned());
                    scene.process.kill()?;
                    scene.process.wait()?;
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

    fn judge(
        &mut self,
        story: &Story,
        status: Option<ExitStatus>,
        said: &str,
        said_at_rest: &[String],
    ) {
        let numbers = story.numbers;
        if numbers.hidden > 0 {
            eprintln!(
                "{} records are missing because the kernel showed their transitions to ftrace alone",
                numbers.hidden
            );
        }
        self.faults.extend(story.faults.iter().cloned());
        let unshown = numbers.faults - story.faults.len() as u64;
        if unshown > 0 {
            self.faults
                .push(format!("and {unshown} more of the stream"));
        }
        let lost =
            numbers.lost + numbers.lost_accepts + numbers.lost_closes + numbers.lost_time_waits;
        let expected = if lost > 0 { LOST } else { 0 };
        if let Some(status) = status
            && status.code() != Some(expected)
        {
            self.faults.push(format!(
                "the tracer ended with {:?}, signal {:?}, in place of {expected}",
                status.code(),
                status.signal()
            ));
        }
        for line in said.lines() {
            let is_summary = line.starts_with("tcptrace: ") && line.ends_with(" lost");
            if !is_summary && !said_at_rest.iter().any(|usual| usual == line) {
                self.faults.push(format!("the tracer said: {line}"));
            }
        }
        if numbers.confirmed == 0 {
            self.faults.push("no owner could be confirmed".to_owned());
        }
    }

    /// The least and the most that the kernel may have reported to the tracer.
    fn happened(&self, after: [u64; 2]) -> [u64; 2] {
        [after[0] - self.before[1], after[1] - self.before[0]]
    }

    fn judge_count(&mut self, numbers: &Numbers, after: [u64; 2]) {
        let [least, most] = self.happened(after);
        let known = numbers.transitions + numbers.lost;
        if !(least..=most).contains(&known) {
            self.faults.push(format!(
                "the kernel reported {least} to {most} transitions; {} were told and {} counted as \
                 lost, which makes {known}",
                numbers.transitions, numbers.lost
            ));
        }
    }

    /// `hidden`: transitions that the kernel showed to ftrace alone. Nor does it show the end of such a
    /// socket, so its record stays.
    fn judge_maps(&mut self, left: &Left, hidden: u64) {
        for (what, list) in [("left", &left.ours), ("without its socket", &left.astray)] {
            if list.len() as u64 > hidden {
                let shown = &list[..list.len().min(5)];
                self.faults.push(format!(
                    "{} records {what} in the maps:\n    {}",
                    list.len(),
                    shown.join("\n    ")
                ));
            }
        }
        for (what, difference) in &left.unbalanced {
            self.faults
                .push(format!("{what}: {difference} of them for good"));
        }
    }

    fn report(&self, numbers: &Numbers, after: [u64; 2], left: &Left) {
        let [least, most] = self.happened(after);
        let happened = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        let [first, second] = self.health.halves();
        let entries: Vec<_> = left
            .entries
            .iter()
            .map(|(name, number)| format!("{name} {number}"))
            .collect();
        let rows = [
            ("seed", self.plan.seed.to_string()),
            ("lines", numbers.lines.to_string()),
            ("transitions told", numbers.transitions.to_string()),
            ("transitions lost", numbers.lost.to_string()),
            ("together", (numbers.transitions + numbers.lost).to_string()),
            ("reported by the kernel", happened),
            ("ends of TIME_WAIT", numbers.time_wait_ends.to_string()),
            (
                "accepts",
                format!(
                    "{}, {} of them told after what followed",
                    numbers.accepts, numbers.accepts_late
                ),
            ),
            ("closes", numbers.closes.to_string()),
            (
                "lost beside transitions",
                format!(
                    "{} accepts, {} closes, {} ends of TIME_WAIT",
                    numbers.lost_accepts, numbers.lost_closes, numbers.lost_time_waits
                ),
            ),
            ("evidently missing", numbers.gaps.to_string()),
            (
                "owners confirmed",
                format!("{} of {} claims", numbers.confirmed, numbers.claims),
            ),
            ("pids used again", numbers.pids_again.to_string()),
            ("namespaces", self.scenes_begun.to_string()),
            ("disturbances", self.disturbances.done()),
            (
                "memory, halves",
                format!(
                    "{} and {} KiB ({} and {} anonymous)",
                    first.rss_kib, second.rss_kib, first.anon_kib, second.anon_kib
                ),
            ),
            (
                "open files, halves",
                [first, second]
                    .map(|half| half.files.unwrap_or_default().to_string())
                    .join(" and "),
            ),
            ("left in maps, of others too", entries.join(", ")),
            (
                "left in maps, of the soak",
                (left.ours.len() + left.astray.len()).to_string(),
            ),
        ];
        eprintln!();
        for (name, value) in rows {
            eprintln!("{name:<28} {value}");
        }
        for record in left.ours.iter().take(SHOWN) {
            eprintln!("  {record}");
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.disturbances.over.store(true, Ordering::Release);
        // They have ended, unless something failed.
        let _ended = self.tracer.kill();
        let _waited = self.tracer.wait();
        for scene in &mut self.scenes {
            let _ended = scene.process.kill();
            let _waited = scene.process.wait();
        }
    }
}

/// How many records that are left are shown.
const SHOWN: usize = 20;

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
    let v4 = |scene| Addresses::new(process::id(), scene).v4.octets().to_vec();
    let v6 = Addresses::new(process::id(), 0).v6.octets()[..8].to_vec();
    (0..64).map(v4).chain([v6]).collect()
}

/// Children of this process that are still there, as zombies or otherwise.
fn children_left() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
        let mut words = after_name.unwrap_or_default().split(' ');
        let state = words.next().unwrap_or_default();
        if words.next() == Some(&process::id().to_string()) {
            left.push(format!("a child is left in state {state}: {stat}"));
        }
    }
    Ok(left)
}
