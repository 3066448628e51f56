//! The load: one network namespace, the processes in it, and how they come to their end.
//!
//! The processes are forked from one that has a single thread, since the many short-lived ones
//! would not be many if each had to load a program. Their standard output is the pipe for claims.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait, waitpid,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::claim::Who;
use super::peer::{Addresses, Client, listen, serve};
use super::random::Random;

/// So many servers, of kinds that chance picks.
const SERVERS: u16 = 3;

/// Those that make one connection each and end.
const MOST_BRIEF: usize = 4;

/// Where the next process of a PID namespace gets its number from.
const LAST_PID: &str = "/proc/sys/kernel/ns_last_pid";

/// What a workload is to do.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Plan {
    /// Where its chance begins
    #[arg(long)]
    pub(super) seed: u64,
    /// Its number in this run
    #[arg(long)]
    pub(super) number: u16,
    /// The process that directs the run
    #[arg(long)]
    pub(super) run: u32,
}

/// How a workload ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Clients first, each when it has done
    Peaceful,
    /// Everybody at once
    Killed,
    /// Everybody at once, when nothing can be sent any more
    CutOff,
}

/// Plays one workload until it is over, or standard input is.
pub(super) fn play(plan: Plan) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // For the workers of servers that are killed.
    set_child_subreaper(Some(getpid()))?;
    let mut random = Random::new(plan.seed);
    let addresses = Addresses::new(plan.run, plan.number);
    prepare_namespace(addresses)?;
    if !random.one_in(3) {
        return Workload::new(plan, addresses, random, false).play();
    }
    // As the first process of a PID namespace, whose end is everybody's.
    // SAFETY: there is one thread, and it stays in its own PID namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }?;
    let first = fork(|| {
        if let Err(why) = Workload::new(plan, addresses, random, true).play() {
            say(&format!("workload {}: {why:#}", plan.number));
        }
    })?;
    waitpid(Some(first), WaitOptions::empty())?;
    Ok(())
}

/// A new network namespace, in which nobody waits for long.
fn prepare_namespace(addresses: Addresses) -> Result<()> {
    // SAFETY: there is one thread, and all that it does from here on belongs in there.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    ip(&format!(
        "link set lo up\naddr add {}/128 dev lo nodad\n",
        addresses.v6
    ))?;
    for (name, value) in [
        ("tcp_fin_timeout", "2"),
        ("tcp_orphan_retries", "1"),
        ("tcp_retries2", "3"),
        ("tcp_syn_retries", "1"),
        ("tcp_synack_retries", "1"),
    ] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value)
            .with_context(|| format!("cannot set net.ipv4.{name}"))?;
    }
    Ok(())
}

fn ip(batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start ip")?;
    let stdin = child.stdin.take().context("no input")?;
    { stdin }.write_all(batch.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("ip: {status}");
    }
    Ok(())
}

/// A forked process, which ends when `work` returns.
fn fork(work: impl FnOnce()) -> io::Result<Pid> {
    let parent = getpid();
    // SAFETY: the caller's process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A parent that has ended already sends no signal; one outside of our PID namespace has no
            // pid here.
            if set_parent_process_death_signal(Some(Signal::KILL)).is_ok()
                && getppid().is_none_or(|now| now == parent)
            {
                work();
            }
            // SAFETY: nothing of the parent's that would be run at exit is this process's to run.
            unsafe { libc::_exit(0) }
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidData.into()),
    }
}

/// On standard error, which may be closed.
fn say(what: &str) {
    let _unsaid = writeln!(io::stderr(), "{what}");
}

/// The director of a namespace's processes.
struct Workload {
    plan: Plan,
    addresses: Addresses,
    random: Random,
    /// Whether it has a PID namespace to itself
    in_pid_namespace: bool,
    /// Connections follow each other after pauses of up to so many ms
    pause: u64,
    end: Instant,
    ending: Ending,
    servers: Vec<(u16, Pid)>,
    clients: Vec<Pid>,
    brief: Vec<Pid>,
    /// Processes so far, for their names
    born: u64,
}

impl Workload {
    fn new(plan: Plan, addresses: Addresses, mut random: Random, in_pid_namespace: bool) -> Self {
        Self {
            plan,
            addresses,
            in_pid_namespace,
            pause: random.pick(&[0, 4, 8, 8, 30]),
            end: Instant::now() + random.millis(3000, 30_000),
            ending: random.pick(&[Ending::Peaceful, Ending::Killed, Ending::CutOff]),
            random,
            servers: Vec::new(),
            clients: Vec::new(),
            brief: Vec::new(),
            born: 0,
        }
    }

    fn play(mut self) -> Result<()> {
        for number in 0..SERVERS {
            let server = self.server(number)?;
            self.servers.push((number, server));
        }
        for _ in 0..=self.random.below(3) {
            let client = self.client()?;
            self.clients.push(client);
        }
        let told_to_end = self.direct()?;
        match self.ending {
            Ending::Peaceful if !told_to_end => self.let_clients_end()?,
            Ending::CutOff => ip("link set lo down\n")?,
            _ => {}
        }
        for pid in self.all() {
            kill(pid);
        }
        while wait(WaitOptions::empty()).is_ok() {}
        Ok(())
    }

    fn all(&self) -> Vec<Pid> {
        let servers = self.servers.iter().map(|(_, pid)| *pid);
        servers
            .chain(self.clients.iter().copied())
            .chain(self.brief.iter().copied())
            .collect()
    }

    /// Returns whether it was told to end before its time.
    fn direct(&mut self) -> Result<bool> {
        while Instant::now() < self.end {
            let stdin = io::stdin();
            let turn = Timespec {
                tv_sec: 0,
                tv_nsec: i64::try_from(self.random.millis(1, 12).as_nanos())?,
            };
            if poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&turn))? > 0 {
                return Ok(true);
            }
            self.reap();
            if self.brief.len() < MOST_BRIEF {
                let brief = self.brief()?;
                self.brief.push(brief);
            }
            if self.random.one_in(300) {
                let at = usize::try_from(self.random.next())? % self.clients.len();
                kill(self.clients[at]);
                self.clients[at] = self.client()?;
            }
            if self.random.one_in(600) {
                let at = usize::try_from(self.random.next())? % self.servers.len();
                let (number, pid) = self.servers[at];
                kill(pid);
                // Its port is free only when it is gone.
                let _gone = waitpid(Some(pid), WaitOptions::empty());
                self.servers[at].1 = self.server(number)?;
            }
        }
        Ok(false)
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            self.brief.retain(|brief| *brief != pid);
        }
    }

    /// They end by themselves at [`Workload::end`].
    fn let_clients_end(&mut self) -> Result<()> {
        let limit = self.end + Duration::from_secs(8);
        while Instant::now() < limit {
            while let Some((pid, _)) = wait(WaitOptions::NOHANG)? {
                self.brief.retain(|brief| *brief != pid);
                self.clients.retain(|client| *client != pid);
            }
            if self.clients.is_empty() && self.brief.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn name(&mut self, kind: &str) -> String {
        self.born += 1;
        format!("{kind}{}-{}", self.plan.number, self.born)
    }

    /// One process with four threads, or a parent with its workers.
    fn server(&mut self, number: u16) -> io::Result<Pid> {
        let name = self.name("srv");
        let addresses = self.addresses;
        let mut random = self.random.split();
        let prefork = random.one_in(2);
        fork(|| {
            let done = if prefork {
                prefork_server(&name, addresses, number, random)
            } else {
                threaded_server(&name, addresses, number)
            };
            if let Err(why) = done {
                say(&format!("{name}: {why}"));
            }
        })
    }

    fn client(&mut self) -> io::Result<Pid> {
        let name = self.name("cli");
        let (addresses, pause, end) = (self.addresses, self.pause, self.end);
        let random = self.random.split();
        fork(|| {
            let Ok(who) = Who::become_known_as(&name) else {
                return;
            };
            let mut client = Client {
                who,
                addresses,
                servers: SERVERS,
                random,
                kept: Vec::new(),
            };
            while Instant::now() < end {
                client.act();
                if pause > 0 {
                    let pause = client.random.millis(0, pause);
                    thread::sleep(pause);
                }
            }
        })
    }

    /// A process that connects once.
    fn brief(&mut self) -> io::Result<Pid> {
        let name = self.name("one");
        let addresses = self.addresses;
        let random = self.random.split();
        if self.in_pid_namespace {
            // All have the same few numbers, as seen from inside.
            fs::write(LAST_PID, "1000")?;
        }
        fork(|| {
            let Ok(who) = Who::become_known_as(&name) else {
                return;
            };
            let mut client = Client {
                who,
                addresses,
                servers: SERVERS,
                random,
                kept: Vec::new(),
            };
            client.act();
        })
    }
}

/// It may have ended by itself.
fn kill(pid: Pid) {
    let _gone = kill_process(pid, Signal::KILL);
}

/// On both families, two threads each.
fn threaded_server(name: &str, addresses: Addresses, number: u16) -> io::Result<()> {
    let who = Who::become_known_as(name)?;
    for is_v6 in [false, true] {
        let listener = listen(addresses.server(number, is_v6), who)?;
        for _ in 0..2 {
            let listener = listener.try_clone()?;
            thread::spawn(move || serve(&listener, who, who));
        }
    }
    loop {
        thread::park();
    }
}

/// On both families, two workers each; now and then one is killed, and another takes its place.
fn prefork_server(
    name: &str,
    addresses: Addresses,
    number: u16,
    mut random: Random,
) -> io::Result<()> {
    let owner = Who::become_known_as(name)?;
    let listeners = [
        listen(addresses.server(number, false), owner)?,
        listen(addresses.server(number, true), owner)?,
    ];
    let worker = |at: usize| {
        fork(|| {
            if let Ok(who) = Who::become_known_as(&format!("w{at}{name}")) {
                serve(&listeners[at % 2], who, owner);
            }
        })
    };
    let mut workers = Vec::new();
    for at in 0..4 {
        workers.push(worker(at)?);
    }
    loop {
        thread::sleep(random.millis(500, 4000));
        let at = usize::try_from(random.below(4)).unwrap_or_default();
        kill(workers[at]);
        let _gone = waitpid(Some(workers[at]), WaitOptions::empty());
        workers[at] = worker(at)?;
    }
}
