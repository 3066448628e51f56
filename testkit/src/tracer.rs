//! The program under test, as a child process.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal},
    time::ClockId,
};

use crate::{
    record::{Record, Records},
    wait,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// `TCPTRACE_BIN`, or the release build beside the test executable.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TCPTRACE_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    own.ancestors()
        .map(|folder| folder.join("release/tcptrace"))
        .find(|path| path.is_file())
        .expect("TCPTRACE_BIN, or target/release/tcptrace: run `cargo xtask build`")
}

/// The program under test at this path, with the accept hooks that all tests are to use.
pub fn command(program: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    if let Some(hooks) = std::env::var_os("TCPTRACE_TEST_HOOKS") {
        command.arg("--hooks").arg(hooks);
    }
    command
}

/// A line of output, and when it came.
#[derive(Clone, Debug)]
struct Line {
    text: String,
    mono_us: u64,
}

#[derive(Default)]
struct Output {
    lines: Vec<Line>,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    errors: Mutex<String>,
    output: Mutex<Output>,
    news: Condvar,
    paused: Mutex<bool>,
    resumed: Condvar,
}

/// A running tracer.
pub struct Tracer {
    child: Child,
    shared: Arc<Shared>,
    stdout: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<()>>,
    args: Vec<String>,
}

/// What it said, to its end.
pub struct Finished {
    pub records: Records,
    pub status: ExitStatus,
    pub stderr: String,
}

impl Tracer {
    /// Returns when the first line has come: what happens from now on is seen.
    pub fn start(args: &[&str]) -> Self {
        let mut json = vec!["--json"];
        json.extend(args);
        let tracer = Self::spawn(&json);
        tracer.await_start();
        tracer
    }

    /// Waits until it is attached; its first line.
    pub fn await_start(&self) -> Record {
        let start = self.wait_for("the start line", PATIENCE, |record| {
            record.event() == "start"
        });
        start.unwrap().0
    }

    /// In whatever format; when it is attached is for the caller to find out.
    pub fn spawn(args: &[&str]) -> Self {
        Self::run(command(&binary(), args))
    }

    /// With these kinds of accept hooks alone.
    pub fn spawn_with(hooks: &str, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(args).args(["--hooks", hooks]);
        Self::run(command)
    }

    /// In whatever confinement the command makes for itself.
    pub fn run(command: Command) -> Self {
        Self::run_by(command, Command::spawn)
    }

    pub fn run_by(
        mut command: Command,
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(&mut command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let shared = Arc::new(Shared::default());
        let stdout = child.stdout.take().unwrap();
        let reader = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || read_lines(stdout, &shared))
        };
        let mut stderr = child.stderr.take().unwrap();
        let errors = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut text = Vec::new();
                stderr.read_to_end(&mut text).unwrap();
                *shared.errors.lock().unwrap() = String::from_utf8_lossy(&text).into_owned();
            })
        };
        let args = command
            .get_args()
            .map(|arg| arg.to_string_lossy().into_owned())
            .collect();
        Self {
            child,
            shared,
            stdout: Some(reader),
            stderr: Some(errors),
            args,
        }
    }

    /// The first line that fits, and how long after its event it came. Fails the test when the
    /// time is over or the tracer ends before.
    pub fn wait_for(
        &self,
        what: &str,
        time: Duration,
        fits: impl Fn(&Record) -> bool,
    ) -> Option<(Record, Duration)> {
        let found = self.look_for(time, fits);
        if found.is_none() {
            self.fail(what);
        }
        found
    }

    /// Says what was waited for in vain, and the last lines that came.
    pub fn fail(&self, what: &str) -> ! {
        let stderr = self.last_words().unwrap_or_default();
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        panic!(
            "tcptrace {}: {what}: the tracer ended or was waited for in vain\nlast lines of \
             {}:\n{}\n{stderr}",
            self.args.join(" "),
            lines.len(),
            lines[lines.len().saturating_sub(8)..].join("\n"),
        );
    }

    /// [`Tracer::wait_for`], for a test that has more to say when nothing comes.
    pub fn look_for(
        &self,
        time: Duration,
        fits: impl Fn(&Record) -> bool,
    ) -> Option<(Record, Duration)> {
        self.find(time, "", fits)
    }

    /// [`Tracer::look_for`], among the lines with this text in them: to read all takes long where there
    /// are many.
    pub fn find(
        &self,
        time: Duration,
        text: &str,
        fits: impl Fn(&Record) -> bool,
    ) -> Option<(Record, Duration)> {
        let deadline = Instant::now() + time;
        let mut seen = 0;
        let mut output = self.shared.output.lock().unwrap();
        loop {
            let lines = output.lines[seen..].iter();
            for line in lines.filter(|line| line.text.contains(text)) {
                let record = Record::parse(&line.text);
                if fits(&record) {
                    let late = line.mono_us.saturating_sub(record.mono_us());
                    return Some((record, Duration::from_micros(late)));
                }
            }
            seen = output.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if output.ended || left.is_zero() {
                return None;
            }
            output = self.shared.news.wait_timeout(output, left).unwrap().0;
        }
    }

    /// Its standard error, if it has ended by itself: a child that has closed its output is on
    /// its way out.
    pub fn last_words(&self) -> Option<String> {
        let ended = || self.stderr.as_ref()?.is_finished().then_some(());
        wait::poll(Duration::from_millis(500), ended)?;
        Some(self.shared.errors.lock().unwrap().clone())
    }

    /// Raw text so far, for the formats that are not JSON.
    pub fn text(&self) -> String {
        let output = self.shared.output.lock().unwrap();
        let mut text = String::new();
        for line in &output.lines {
            text += &line.text;
            text.push('\n');
        }
        text
    }

    /// How many lines it has written so far.
    pub fn lines(&self) -> usize {
        self.shared.output.lock().unwrap().lines.len()
    }

    /// Stops, or resumes, reading its output.
    pub fn pause_reading(&self, paused: bool) {
        *self.shared.paused.lock().unwrap() = paused;
        self.shared.resumed.notify_all();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its own memory, without what it shares with files and the kernel.
    pub fn anonymous_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Interrupts it as Ctrl-C does. What happened before must be in the output.
    pub fn finish(self) -> Finished {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits until it ends by itself.
    pub fn wait(self) -> Finished {
        let (text, status, stderr) = self.wait_text();
        Finished {
            records: Records::parse(&text),
            status,
            stderr,
        }
    }

    /// [`Tracer::wait`] for formats that are not JSON.
    pub fn wait_text(mut self) -> (String, ExitStatus, String) {
        let status = wait::poll(PATIENCE, || self.child.try_wait().unwrap());
        let Some(status) = status else {
            let _over = self.child.kill();
            self.child.wait().unwrap();
            self.stdout.take().unwrap().join().unwrap();
            self.stderr.take().unwrap().join().unwrap();
            let said = self.shared.errors.lock().unwrap();
            panic!("tcptrace {}: does not end\n{said}", self.args.join(" "));
        };
        self.stdout.take().unwrap().join().unwrap();
        self.stderr.take().unwrap().join().unwrap();
        let stderr = self.shared.errors.lock().unwrap().clone();
        (self.text(), status, stderr)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Already ended and waited for, unless the test failed.
        self.pause_reading(false);
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

impl Finished {
    /// It ended as after Ctrl-C, and every promise about its output was kept.
    pub fn fine(self) -> Records {
        self.ended_with(0)
    }

    pub fn ended_with(self, code: i32) -> Records {
        assert_eq!(
            self.status.code(),
            Some(code),
            "exit status; standard error:\n{}",
            self.stderr
        );
        self.records.keep_their_promises();
        self.records
    }
}

fn read_lines(stdout: impl io::Read, shared: &Shared) {
    let mut stdout = BufReader::new(stdout);
    let mut bytes = Vec::new();
    loop {
        let paused = shared.paused.lock().unwrap();
        let still = shared.resumed.wait_while(paused, |paused| *paused);
        drop(still.unwrap_or_else(PoisonError::into_inner));
        bytes.clear();
        let read = stdout.read_until(b'\n', &mut bytes).unwrap();
        let mono_us = now_us();
        let mut output = shared.output.lock().unwrap();
        if read == 0 {
            output.ended = true;
            shared.news.notify_all();
            return;
        }
        let whole = bytes.pop_if(|last| *last == b'\n').is_some();
        let text = String::from_utf8(bytes.clone()).expect("the output is UTF-8");
        assert!(whole, "the last line is cut: {text:?}");
        output.lines.push(Line { text, mono_us });
        shared.news.notify_all();
    }
}

/// `CLOCK_MONOTONIC`, the clock of `mono_us`.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1000
}
