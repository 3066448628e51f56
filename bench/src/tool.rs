//! What is compared: nothing, the floor, tcptrace in its modes, and its peers.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::load::{PORT, PORT_MASK};
use toolchain::process::{bpf, wait_until_idle};

/// A tracer that is not ready by then has failed.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A tracer that has not ended by then is killed.
const END_LIMIT: Duration = Duration::from_secs(20);

/// `bpftrace`'s program with the columns of `tcpstates`.
const BPFTRACE: &str = "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ \
     { printf(\"%llx %d %s %s %d %s %d %d %d\\n\", args->skaddr, pid, comm, \
     ntop(args->family, args->saddr), args->sport, ntop(args->family, args->daddr), args->dport, \
     args->oldstate, args->newstate) }";

/// The programs that were built for this run.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Programs {
    /// The agent
    pub(super) tcptrace: PathBuf,
    /// The floor's loader
    pub(super) floor: PathBuf,
    /// What counts transitions
    pub(super) counter: PathBuf,
    /// The compiled eBPF side of both
    pub(super) object: PathBuf,
    /// For files of this run
    pub(super) folder: PathBuf,
}

/// Where a tool's program comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Nobody,
    Floor(&'static str),
    Tcptrace(&'static [&'static str]),
    /// A program, its package and its arguments
    Peer(&'static str, &'static str, &'static [&'static str]),
}

/// What its lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prints {
    /// There are none
    Nothing,
    /// One for each transition
    Transitions,
    /// One for each end of a connection
    Connections,
}

/// One of those compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tool {
    /// For `--only`, and in the tables
    pub(super) name: &'static str,
    source: Source,
    pub(super) prints: Prints,
}

const fn tool(name: &'static str, source: Source, prints: Prints) -> Tool {
    Tool {
        name,
        source,
        prints,
    }
}

/// All of them. The first is what the others are compared with; the second is the same once more,
/// for the noise.
pub(super) const ALL: [Tool; 14] = [
    tool("none", Source::Nobody, Prints::Nothing),
    tool("none-2", Source::Nobody, Prints::Nothing),
    tool("floor-empty", Source::Floor("empty"), Prints::Nothing),
    tool("floor-ring-lazy", Source::Floor("ring"), Prints::Nothing),
    tool("floor-hooks", Source::Floor("hooks"), Prints::Nothing),
    // Its lines have no ports, so nobody knows which are of the load.
    tool("floor-print", Source::Floor("print"), Prints::Nothing),
    tool(
        "tcptrace --json",
        Source::Tcptrace(&["--json"]),
        Prints::Transitions,
    ),
    tool("tcptrace", Source::Tcptrace(&[]), Prints::Transitions),
    tool(
        "tcptrace -s",
        Source::Tcptrace(&["-s"]),
        Prints::Connections,
    ),
    tool(
        "tcptrace -p IDLE",
        Source::Tcptrace(&["-p"]),
        Prints::Nothing,
    ),
    tool(
        "tcpstates",
        Source::Peer("tcpstates", "libbpf-tools", &[]),
        Prints::Transitions,
    ),
    tool(
        "tcplife",
        Source::Peer("tcplife", "libbpf-tools", &[]),
        Prints::Connections,
    ),
    tool(
        "tcpstates-bpfcc",
        Source::Peer("tcpstates-bpfcc", "bpfcc-tools", &[]),
        Prints::Transitions,
    ),
    tool(
        "bpftrace",
        Source::Peer("bpftrace", "bpftrace", &["-e", BPFTRACE]),
        Prints::Transitions,
    ),
];

impl Tool {
    /// The program and the package that has it, of a peer.
    pub(super) fn package(self) -> Option<(&'static str, &'static str)> {
        match self.source {
            Source::Peer(program, package, _) => Some((program, package)),
            _ => None,
        }
    }

    /// Whether there is a process at all.
    pub(super) fn runs(self) -> bool {
        !matches!(self.source, Source::Nobody)
    }

    /// Whether it takes turns with others beside one load: what has to be distinguished by a few per cent.
    pub(super) fn takes_turns(self) -> bool {
        self.name == "none" || !matches!(self.source, Source::Nobody | Source::Peer(..))
    }

    /// Whether it is tcptrace.
    pub(super) fn is_ours(self) -> bool {
        matches!(self.source, Source::Tcptrace(_))
    }

    fn command(self, programs: &Programs) -> Option<Command> {
        Some(match self.source {
            Source::Nobody => return None,
            Source::Floor(program) => {
                let mut command = Command::new(&programs.floor);
                command.arg(&programs.object).arg(program);
                command
            }
            Source::Tcptrace(args) => {
                let mut command = Command::new(&programs.tcptrace);
                command.args(args);
                if args.contains(&"-p") {
                    // Nobody has fewer connections than we.
                    command.arg(process::id().to_string());
                }
                command
            }
            Source::Peer(program, _, args) => {
                let mut command = Command::new(program);
                command.args(args);
                command
            }
        })
    }

    /// Whether a line is about something that the load has done and its kernel hook has seen.
    pub(super) fn counts(self, line: &str) -> bool {
        // Nobody but us reports these: what was open, accepts, totals, and ends of TIME_WAIT.
        let of_ours = self.prints == Prints::Transitions
            && [
                "\"event\":\"socket\"",
                "\"event\":\"accept\"",
                "\"event\":\"close\"",
                "\"old\":\"TIME_WAIT\"",
            ]
            .into_iter()
            .chain(["open · ", "accepted after", "closed after", "TIME_WAIT → "])
            .any(|other| line.contains(other));
        let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
        let on_port = |word: &str| word.parse().is_ok_and(|port: u16| port & PORT_MASK == PORT);
        !of_ours && words.any(on_port)
    }

    /// Starts it, and waits until it has attached and has nothing left to prepare.
    pub(super) fn start(self, programs: &Programs, output: Stdio) -> Result<Option<Tracer>> {
        let Some(mut tracer) = self.spawn(programs, output)? else {
            return Ok(None);
        };
        tracer.wait_until_attached().context(self.name)?;
        wait_until_idle(tracer.pid(), START_LIMIT)?;
        Ok(Some(tracer))
    }

    /// Starts it.
    pub(super) fn spawn(self, programs: &Programs, output: Stdio) -> Result<Option<Tracer>> {
        let Some(mut command) = self.command(programs) else {
            return Ok(None);
        };
        let errors = programs.folder.join("stderr");
        let process = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        Ok(Some(Tracer { process, errors }))
    }
}

/// A running tool. Killed when dropped.
pub(super) struct Tracer {
    process: Child,
    errors: PathBuf,
}

impl Tracer {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until a program of its is attached.
    pub(super) fn wait_until_attached(&mut self) -> Result<()> {
        let start = Instant::now();
        while !bpf(self.pid())?.attached {
            if let Some(status) = self.ended()? {
                bail!("it ended ({status}): {}", self.last_words()?);
            }
            if start.elapsed() > START_LIMIT {
                bail!("it does not attach");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub(super) fn output(&mut self) -> Option<process::ChildStdout> {
        self.process.stdout.take()
    }

    /// Ends it as Ctrl-C does: how long that took, unless it ignores that, and what it said on standard
    /// error.
    pub(super) fn interrupt(mut self) -> Result<(Option<Duration>, String)> {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.process), Signal::INT)?;
        while self.ended()?.is_none() {
            if start.elapsed() > END_LIMIT {
                return Ok((None, self.said()?));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok((Some(start.elapsed()), self.said()?))
    }

    fn said(&self) -> Result<String> {
        let said = fs::read(&self.errors)?;
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    fn last_words(&self) -> Result<String> {
        let said = self.said()?;
        Ok(said.lines().last().unwrap_or_default().to_owned())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(Some(_))) {
            return;
        }
        // It has ended meanwhile, then.
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}
