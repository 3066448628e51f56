//! What really happened: `sock:inet_sock_set_state` as the kernel's own ftrace recorded it.
//!
//! The tracer has no part in this. A private instance of ftrace has buffers of its own; it is
//! read raw, because the text form leaves out the address of the socket, by which the steps of
//! one connection hang together.

use std::{
    fmt,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::mount::MountFlags;

use crate::{confinement, netns::Netns};

const NAME_PREFIX: &str = "tcptrace-test-";

static TRACEFS: OnceLock<PathBuf> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Gives this process a table of mounts of its own, with securityfs in it, so that the mode of
/// lockdown can be read. Call it before there are threads.
pub(crate) fn see_lockdown() {
    const SECURITYFS: &str = "/sys/kernel/security";
    confinement::leave_mounts().unwrap();
    let is_empty = fs::read_dir(SECURITYFS).is_ok_and(|mut folder| folder.next().is_none());
    if is_empty {
        // Without it the kernel is taken for one that is not locked down.
        let none = MountFlags::empty();
        let _missing = rustix::mount::mount("securityfs", SECURITYFS, "securityfs", none, None);
    }
}

/// Mounts tracefs where only this process and its children see it, and clears away the instances
/// of earlier runs that were killed. Call [`see_lockdown`] before.
///
/// The tracer must not profit from the mount: it goes to a folder nobody looks into.
pub(crate) fn prepare() {
    let folder = std::env::temp_dir().join(format!("{NAME_PREFIX}{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    rustix::mount::mount("tracefs", &folder, "tracefs", MountFlags::empty(), None)
        .expect("mount tracefs: the kernel needs CONFIG_FTRACE");

    for entry in fs::read_dir(folder.join("instances")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let pid = name
            .strip_prefix(NAME_PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            fs::remove_dir(folder.join("instances").join(name)).unwrap();
        }
    }
    TRACEFS.set(folder).unwrap();
}

/// Whether `tcp:tcp_send_reset` gives the kernel's reason.
pub(crate) fn tells_reset_reason() -> bool {
    let format = TRACEFS
        .get()
        .unwrap()
        .join("events/tcp/tcp_send_reset/format");
    fs::read_to_string(format).unwrap().contains("reason")
}

/// The mount itself goes with the process; its folder does not.
pub(crate) fn clean_up() {
    if let Some(folder) = TRACEFS.get() {
        rustix::mount::unmount(folder, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_dir(folder).unwrap();
    }
}

/// A running recording.
pub(crate) struct Truth {
    instance: PathBuf,
}

impl Truth {
    /// Room for about 50,000 state changes on each CPU.
    pub(crate) fn record() -> Self {
        Self::with_buffer(4 << 10)
    }

    pub(crate) fn with_buffer(kib_per_cpu: usize) -> Self {
        let truth = Self::idle();
        truth.write("options/overwrite", "0");
        truth.write("buffer_size_kb", &kib_per_cpu.to_string());
        truth.write("events/sock/inet_sock_set_state/filter", "protocol == 6");
        truth.write("events/sock/inet_sock_set_state/enable", "1");
        let filter = format!("function == {:#x}", time_wait_handler());
        truth.write("events/timer/timer_start/filter", &filter);
        truth.write("events/timer/timer_start/enable", "1");
        truth.write("tracing_on", "1");
        truth
    }

    fn idle() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let instance = TRACEFS.get().unwrap().join(format!(
            "instances/{NAME_PREFIX}{}-{count}",
            std::process::id()
        ));
        fs::create_dir(&instance).unwrap();
        let truth = Self { instance };
        truth.write("tracing_on", "0");
        // The clock of the tracer's records.
        truth.write("trace_clock", "mono");
        truth
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.instance.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    fn text(&self, file: &str) -> String {
        let path = self.instance.join(file);
        let mut text = vec![0; 1 << 16];
        // In one piece: a second read of some of these files returns nothing.
        let len = File::open(&path)
            .and_then(|mut file| file.read(&mut text))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.truncate(len);
        String::from_utf8(text).unwrap()
    }

    /// What happens from now on is not in it.
    pub(crate) fn pause(&self) {
        self.write("tracing_on", "0");
    }

    /// Ends the recording. Everything is in it, or the test fails.
    pub(crate) fn stop(self) -> Vec<Step> {
        self.write("tracing_on", "0");
        let fields = Fields::parse(&self.text("events/sock/inet_sock_set_state/format"));
        let timer_start = id_of(&self.text("events/timer/timer_start/format"));
        let layout = PageLayout::parse(&self.text("../../events/header_page"));
        let mut steps = Vec::new();
        for entry in fs::read_dir(self.instance.join("per_cpu")).unwrap() {
            let cpu = entry.unwrap().path();
            let stats = fs::read_to_string(cpu.join("stats")).unwrap();
            for line in stats.lines() {
                if let Some((name @ ("overrun" | "commit overrun" | "dropped events"), count)) =
                    line.split_once(": ")
                {
                    assert_eq!(count.trim(), "0", "ftrace itself lost events: {name}");
                }
            }
            let mut pipe = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(cpu.join("trace_pipe_raw"))
                .unwrap();
            let mut page = vec![0; layout.size];
            let mut armed = false;
            loop {
                match pipe.read(&mut page) {
                    Ok(0) => break,
                    Ok(_) => layout.decode(&page, |at_ns, record| {
                        if record[..2] == timer_start.to_ne_bytes() {
                            armed = true;
                        } else if let Some(mut step) = fields.decode(at_ns, record) {
                            // The kernel makes the time-wait socket, starts its timer and closes
                            // the full one without letting anything else come between.
                            let left = matches!(step.old, "FIN_WAIT2" | "CLOSING");
                            step.time_wait = armed && left && step.new == "CLOSE";
                            armed = false;
                            steps.push(step);
                        }
                    }),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{}: {error}", cpu.display()),
                }
            }
        }
        steps.sort_by_key(|step| step.at_ns);
        steps
    }
}

/// How many state changes there are, of more than can be kept.
pub(crate) struct Tally(Truth);

impl Tally {
    /// `filter`: in the language of ftrace, besides that it is TCP.
    pub(crate) fn begin(filter: &str) -> Self {
        let truth = Truth::idle();
        truth.write("options/overwrite", "1");
        truth.write("buffer_size_kb", "64");
        let filter = format!("protocol == 6 && ({filter})");
        truth.write("events/sock/inet_sock_set_state/filter", &filter);
        truth.write("events/sock/inet_sock_set_state/enable", "1");
        truth.write("tracing_on", "1");
        Self(truth)
    }

    /// Those that are in the buffers, and those that have given way to them.
    pub(crate) fn stop(self) -> u64 {
        self.0.write("tracing_on", "0");
        let mut count = 0;
        for entry in fs::read_dir(self.0.instance.join("per_cpu")).unwrap() {
            let stats = fs::read_to_string(entry.unwrap().path().join("stats")).unwrap();
            for line in stats.lines() {
                let Some((name, number)) = line.split_once(": ") else {
                    continue;
                };
                match name {
                    "entries" | "overrun" => count += number.trim().parse::<u64>().unwrap(),
                    "commit overrun" | "dropped events" => {
                        assert_eq!(number.trim(), "0", "ftrace itself lost events: {name}");
                    }
                    _ => {}
                }
            }
        }
        count
    }
}

impl Drop for Truth {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("{}: {error}", self.instance.display());
        }
    }
}

/// One state change.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// `CLOCK_MONOTONIC`
    pub(crate) at_ns: u64,
    /// Address of the socket: its identity, until it is freed
    pub(crate) sk: u64,
    pub(crate) old: &'static str,
    pub(crate) new: &'static str,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// It closes a socket of which a time-wait socket remains
    pub(crate) time_wait: bool,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{:06} {:x} {} -> {} {} -> {}{}",
            self.at_ns / 1_000_000_000,
            self.at_ns / 1000 % 1_000_000,
            self.sk,
            self.local,
            self.remote,
            self.old,
            self.new,
            if self.time_wait { " (time-wait)" } else { "" }
        )
    }
}

/// The state changes of one socket from its birth, or from the start of the recording, to its
/// end.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) steps: Vec<Step>,
}

impl Life {
    /// Its local and remote end. No single record is sure to have both whole: a client has no
    /// port yet at its first step.
    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        let end = |of: fn(&Step) -> SocketAddr| {
            let addrs = || self.steps.iter().rev().map(of);
            let any = addrs().next().unwrap();
            let ip = addrs().find(|addr| !addr.ip().is_unspecified());
            let port = addrs().find(|addr| addr.port() != 0);
            SocketAddr::new(ip.unwrap_or(any).ip(), port.unwrap_or(any).port())
        };
        (end(|step| step.local), end(|step| step.remote))
    }

    pub(crate) fn lines(&self) -> String {
        let lines: Vec<_> = self.steps.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// Whether a time-wait socket took its place.
    pub(crate) fn time_waits(&self) -> bool {
        self.steps.iter().any(|step| step.time_wait)
    }

    pub(crate) fn is_listener(&self) -> bool {
        let first = &self.steps[0];
        first.new == "LISTEN" || (first.old == "LISTEN" && first.new == "CLOSE")
    }
}

/// Tells whole lives, in the order of their beginnings.
pub(crate) fn lives(steps: &[Step]) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut living = std::collections::HashMap::new();
    for step in steps {
        let born = step.old == "CLOSE" || (step.old == "LISTEN" && step.new == "SYN_RECV");
        let at = match living.get(&step.sk) {
            Some(at) if !born => *at,
            _ => {
                lives.push(Life { steps: Vec::new() });
                living.insert(step.sk, lives.len() - 1);
                lives.len() - 1
            }
        };
        lives[at].steps.push(step.clone());
        if step.new == "CLOSE" {
            living.remove(&step.sk);
        }
    }
    lives
}

/// The lives in a namespace, told by the addresses that are its own. Listeners on all addresses
/// are told by their ports.
pub(crate) fn lives_in(steps: &[Step], netns: &Netns, wildcards: &[u16]) -> Vec<Life> {
    let mut lives = lives(steps);
    lives.retain(|life| {
        let (local, remote) = life.ends();
        let ours = |ip: IpAddr| ip == netns.v4 || ip == netns.v6;
        ours(local.ip())
            || ours(remote.ip())
            || (life.is_listener()
                && local.ip().is_unspecified()
                && wildcards.contains(&local.port()))
    });
    lives
}

/// `events/header_page`: what precedes the records on a page.
struct PageLayout {
    commit_at: usize,
    commit_size: usize,
    data_at: usize,
    size: usize,
}

impl PageLayout {
    fn parse(format: &str) -> Self {
        let (commit_at, commit_size) = field(format, "commit");
        let (data_at, data_size) = field(format, "data");
        Self {
            commit_at,
            commit_size,
            data_at,
            size: data_at + data_size,
        }
    }

    /// Calls `each` with every record and its time. The encoding is described in the kernel's
    /// `include/linux/ring_buffer.h`.
    fn decode(&self, page: &[u8], mut each: impl FnMut(u64, &[u8])) {
        const PADDING: u32 = 29;
        const TIME_EXTEND: u32 = 30;
        const TIME_STAMP: u32 = 31;
        const MISSED_EVENTS: u64 = 1 << 31;
        const LENGTH: u64 = (1 << 27) - 1;

        let word = |at: usize| u32::from_ne_bytes(page[at..at + 4].try_into().unwrap());
        let mut at_ns = u64::from_ne_bytes(page[..8].try_into().unwrap());
        let commit = match self.commit_size {
            8 => u64::from_ne_bytes(page[self.commit_at..][..8].try_into().unwrap()),
            _ => word(self.commit_at).into(),
        };
        assert_eq!(commit & MISSED_EVENTS, 0, "ftrace itself lost events");
        let end = self.data_at + usize::try_from(commit & LENGTH).unwrap();
        let mut at = self.data_at;
        while at < end {
            let head = word(at);
            let (kind, delta) = (head & 31, u64::from(head >> 5));
            at += 4;
            match kind {
                PADDING if delta == 0 => break,
                PADDING => {
                    at_ns += delta;
                    at += word(at) as usize;
                }
                TIME_EXTEND => {
                    at_ns += delta + (u64::from(word(at)) << 27);
                    at += 4;
                }
                TIME_STAMP => {
                    at_ns = delta + (u64::from(word(at)) << 27);
                    at += 4;
                }
                _ => {
                    at_ns += delta;
                    let len = if kind == 0 {
                        let len = word(at) as usize - 4;
                        at += 4;
                        len
                    } else {
                        kind as usize * 4
                    };
                    each(at_ns, &page[at..at + len]);
                    at += len.next_multiple_of(4);
                }
            }
        }
    }
}

/// Where the fields of the event are.
struct Fields {
    id: u16,
    sk: usize,
    old: usize,
    new: usize,
    sport: usize,
    dport: usize,
    family: usize,
    saddr: usize,
    daddr: usize,
    saddr_v6: usize,
    daddr_v6: usize,
}

impl Fields {
    fn parse(format: &str) -> Self {
        let at = |name| field(format, name).0;
        Self {
            id: id_of(format),
            sk: at("skaddr"),
            old: at("oldstate"),
            new: at("newstate"),
            sport: at("sport"),
            dport: at("dport"),
            family: at("family"),
            saddr: at("saddr[4]"),
            daddr: at("daddr[4]"),
            saddr_v6: at("saddr_v6[16]"),
            daddr_v6: at("daddr_v6[16]"),
        }
    }

    fn decode(&self, at_ns: u64, record: &[u8]) -> Option<Step> {
        let short = |at: usize| u16::from_ne_bytes(record[at..at + 2].try_into().unwrap());
        if short(0) != self.id {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
        let four = |at: usize| <[u8; 4]>::try_from(&record[at..at + 4]).unwrap();
        let sixteen = |at: usize| <[u8; 16]>::try_from(&record[at..at + 16]).unwrap();
        // A cloned socket that speaks IPv4 through IPv6 has its IPv4 addresses first.
        let addr = |v4: usize, v6: usize| {
            let long = Ipv6Addr::from(sixteen(v6)).to_canonical();
            let is_v6 = i32::from(short(self.family)) == libc::AF_INET6;
            if is_v6 && (!long.is_unspecified() || four(v4) == [0; 4]) {
                long
            } else {
                IpAddr::from(four(v4))
            }
        };
        Some(Step {
            at_ns,
            sk: u64::from_ne_bytes(record[self.sk..self.sk + 8].try_into().unwrap()),
            old: state(word(self.old)),
            new: state(word(self.new)),
            local: SocketAddr::new(addr(self.saddr, self.saddr_v6), short(self.sport)),
            remote: SocketAddr::new(addr(self.daddr, self.daddr_v6), short(self.dport)),
            time_wait: false,
        })
    }
}

/// By which a record says what event it is.
fn id_of(format: &str) -> u16 {
    let id = format.lines().find_map(|line| line.strip_prefix("ID: "));
    id.unwrap().parse().unwrap()
}

/// Where the function is that every time-wait socket's timer calls.
fn time_wait_handler() -> u64 {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap();
    let line = symbols
        .lines()
        .find(|line| line.split(' ').nth(2) == Some("tw_timer_handler"))
        .expect("tw_timer_handler in /proc/kallsyms");
    u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
}

/// Offset and size of a field in a tracefs `format` file.
fn field(format: &str, name: &str) -> (usize, usize) {
    let line = format
        .lines()
        .find(|line| {
            let declaration = line.trim_start().strip_prefix("field:");
            declaration
                .and_then(|line| line.split(';').next())
                .is_some_and(|line| line.ends_with(&format!(" {name}")))
        })
        .unwrap_or_else(|| panic!("no field {name} in\n{format}"));
    let number = |key: &str| {
        let rest = line.split_once(key).unwrap().1;
        rest.split(';').next().unwrap().parse().unwrap()
    };
    (number("offset:"), number("size:"))
}

/// The name of a state of `net/tcp_states.h`.
pub(crate) fn state(number: u32) -> &'static str {
    const STATES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    STATES[number as usize - 1]
}
