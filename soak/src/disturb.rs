//! Who makes it hard: stops the main tracer, and starts others that come to a bad end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::checker::Stops;
use super::mono_us;
use super::random::Random;
use toolchain::workspace;

/// A tracer that has not ended by then does not end.
pub(super) const END_LIMIT: Duration = Duration::from_mins(1);

/// Filled within a moment.
const TINY: &str = "size=64k";

/// What has been done, and what was not right about it.
#[derive(Debug, Default)]
pub(super) struct Disturbances {
    pub(super) over: AtomicBool,
    done: Mutex<BTreeMap<&'static str, u64>>,
    faults: Mutex<Vec<String>>,
    pub(super) stops: Stops,
}

impl Disturbances {
    fn note(&self, what: &'static str) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done.entry(what).or_default() += 1;
    }

    /// How often each was done.
    pub(super) fn done(&self) -> String {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let done: Vec<_> = done
            .iter()
            .map(|(what, number)| format!("{what} {number}"))
            .collect();
        done.join(", ")
    }

    pub(super) fn faults(&self) -> Vec<String> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.clone()
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Waits, unless it is over.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.is_over() && Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops and resumes the main tracer until it is over.
    pub(super) fn stop_and_resume(&self, pid: Pid, mut random: Random) {
        while !self.is_over() {
            self.pause(random.millis(3000, 20_000));
            let time = if random.one_in(3) {
                random.millis(1000, 6000)
            } else {
                random.millis(10, 800)
            };
            let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
            stops.push((mono_us(), u64::MAX));
            drop(stops);
            // It is looked after elsewhere whether it lives.
            let _gone = kill_process(pid, Signal::STOP);
            self.pause(time);
            let _gone = kill_process(pid, Signal::CONT);
            let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(last) = stops.last_mut() {
                last.1 = mono_us();
            }
            self.note("main tracer stopped");
        }
    }

    /// Starts other tracers until it is over.
    pub(super) fn start_others(&self, tcptrace: &Path, folder: &Path, mut random: Random) {
        let others = Others { tcptrace, folder };
        if let Err(why) = others.prepare() {
            return self.fault(&format!("{why:#}"));
        }
        while !self.is_over() {
            self.pause(random.millis(200, 4000));
            let (what, done) = match random.below(5) {
                0 => ("stalled reader", others.stalled_reader(self, &mut random)),
                1 => ("reader gone", others.reader_gone(&mut random)),
                2 => ("full disk", others.full_disk(self)),
                3 => ("killed", others.killed(self, &mut random)),
                _ => ("ended in order", others.ended(self, &mut random)),
            };
            match done {
                Ok(()) => self.note(what),
                Err(why) => self.fault(&format!("another tracer ({what}): {why:#}")),
            }
        }
    }

    fn fault(&self, what: &str) {
        eprintln!("{what}");
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push(what.to_owned());
    }
}

/// Tracers besides the main one.
struct Others<'a> {
    tcptrace: &'a Path,
    folder: &'a Path,
}

impl Others<'_> {
    fn tiny(&self) -> PathBuf {
        self.folder.join("tiny")
    }

    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(self.tiny())?;
        workspace::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", TINY, "tmpfs"])
                .arg(self.tiny()),
        )?;
        Ok(())
    }

    fn start(&self, args: &[&str], output: Stdio) -> Result<Other> {
        let errors = self.folder.join("other-stderr");
        let process = Command::new(self.tcptrace)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(File::create(&errors)?)
            .spawn()
            .context("cannot start")?;
        Ok(Other { process, errors })
    }

    /// Its reader reads, sleeps, and goes on when the tracer is told to end.
    fn stalled_reader(&self, all: &Disturbances, random: &mut Random) -> Result<()> {
        let mut other = self.start(&["--json"], Stdio::piped())?;
        let mut output = other.output()?;
        output.read_exact(&mut [0; 100]).context("no output")?;
        all.pause(random.millis(500, 6000));
        other.signal(Signal::INT)?;
        let mut last = Vec::new();
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            std::mem::swap(&mut last, &mut line);
            line.clear();
        }
        let last = String::from_utf8_lossy(&last).into_owned();
        if !last.contains("\"event\":\"end\"") || !last.ends_with('\n') {
            bail!("the last line is {last:?}");
        }
        other.ends_with(0)
    }

    fn reader_gone(&self, random: &mut Random) -> Result<()> {
        let args: &[&str] = random.pick(&[&["--json"], &["-s"], &[]]);
        let mut other = self.start(args, Stdio::piped())?;
        let mut some = vec![0; usize::try_from(random.below(100_000))?];
        let mut output = other.output()?;
        output.read_exact(&mut some).context("no output")?;
        drop(output);
        other.ends_with(0)
    }

    fn full_disk(&self, all: &Disturbances) -> Result<()> {
        let path = self.tiny().join("lines");
        let name = path.to_string_lossy();
        let mut other = self.start(&["--json", "-o", &name], Stdio::null())?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = other.process.try_wait()? {
                break status;
            }
            // Too little may come at the end.
            if all.is_over() || start.elapsed() > END_LIMIT {
                other.signal(Signal::INT)?;
                break other.wait()?;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let lines = fs::read(&path)?;
        fs::remove_file(&path)?;
        let said = other.said()?;
        if lines.last().is_some_and(|last| *last != b'\n') {
            bail!("the last line in the file is cut");
        }
        let full = status.code() == Some(1) && said.contains("failed to write to");
        let in_time = all.is_over() && status.success();
        if !full && !in_time {
            bail!(
                "{status}, {} bytes in the file; it said:\n{said}",
                lines.len()
            );
        }
        Ok(())
    }

    fn killed(&self, all: &Disturbances, random: &mut Random) -> Result<()> {
        let mut other = self.start(&["--json", "--events", "all"], Stdio::null())?;
        all.pause(random.millis(5, 3000));
        other.signal(Signal::KILL)?;
        other.wait()?;
        Ok(())
    }

    fn ended(&self, all: &Disturbances, random: &mut Random) -> Result<()> {
        let args: &[&str] = random.pick(&[
            &["--json", "--events", "all"],
            &["-s"],
            &["--failed"],
            &["--slower-than", "20ms", "--json"],
            &["--explain", "--wide"],
            &["-p", "1"],
            &["--role", "server", "--state", "CLOSE_WAIT"],
            &["--buffer", "4K"],
        ]);
        let other = self.start(args, Stdio::null())?;
        let start = Instant::now();
        all.pause(random.millis(1500, 4000));
        // Before that it has no handler for the signal, and dies of it.
        while start.elapsed() < Duration::from_secs(1) {
            thread::sleep(Duration::from_millis(20));
        }
        other.signal(random.pick(&[Signal::INT, Signal::TERM]))?;
        other.ends_with(0)
    }
}

/// One of them. Killed when dropped.
struct Other {
    process: Child,
    errors: PathBuf,
}

impl Other {
    fn output(&mut self) -> Result<ChildStdout> {
        self.process.stdout.take().context("it has no output")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.process), signal)?)
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait(&mut self.process)?.context("it does not end")
    }

    fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.errors)?).into_owned())
    }

    fn ends_with(mut self, code: i32) -> Result<()> {
        let status = self.wait()?;
        if status.code() != Some(code) {
            bail!("{status}; it said:\n{}", self.said()?);
        }
        Ok(())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // Most have ended and been waited for.
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}

/// None if it has not ended when there is no more time.
pub(super) fn wait(process: &mut Child) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < END_LIMIT {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}
