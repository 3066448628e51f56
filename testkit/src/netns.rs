//! A network namespace that exists as long as somebody holds it, and has no name to leave behind.

use std::{
    fs::File,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd as _, AsRawFd as _, RawFd},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::JoinHandle,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::{oracle, wait};

static COUNT: AtomicU16 = AtomicU16::new(0);

/// A namespace with a loopback device that carries addresses nobody else on the host uses.
pub struct Netns {
    file: File,
    /// Its inode: how the tracer names it
    pub inode: u64,
    /// A loopback address that tells this scenario's connections from all others in host-wide
    /// traces, which say nothing of namespaces
    pub v4: Ipv4Addr,
    /// The same for IPv6
    pub v6: Ipv6Addr,
}

impl Netns {
    pub fn new() -> Self {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let [top, upper, high, low] = pid.to_be_bytes();
        let [_, second] = (0x40 + count % 0x80).to_be_bytes();
        let v4 = Ipv4Addr::new(127, second, high, low);
        let pids = [[top, upper], [high, low]].map(u16::from_be_bytes);
        let v6 = Ipv6Addr::new(0xfd74, 0x6370, pids[0], pids[1], count, 0, 0, 1);

        // A namespace belongs to a thread, so a thread of its own makes it.
        let file = std::thread::spawn(|| {
            // SAFETY: this thread ends here; no other code runs in the new namespace by surprise.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        })
        .join()
        .unwrap();
        let inode = file.metadata().unwrap().ino();
        let netns = Self {
            file,
            inode,
            v4,
            v6,
        };
        netns.ip(&format!("link set lo up\naddr add {v6}/128 dev lo nodad\n"));
        netns
    }

    /// Runs a batch of `ip` commands inside.
    pub fn ip(&self, batch: &str) {
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]).stdin(Stdio::piped());
        let mut child = self.enter(&mut ip).spawn().expect("the command ip");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(batch.as_bytes())
            .unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "ip -batch: {status}\n{batch}");
    }

    /// Makes the command start inside.
    pub fn enter<'command>(&self, command: &'command mut Command) -> &'command mut Command {
        let file = self.file.try_clone().unwrap();
        let enter = move || join(&file);
        // SAFETY: between fork and exec only setns is called, which is a system call.
        unsafe { command.pre_exec(enter) }
    }

    /// The address to listen on for each way of speaking TCP, and to connect to.
    pub fn addr(&self, ip: Ip, port: u16) -> SocketAddr {
        let ip = match ip {
            Ip::V4 => IpAddr::V4(self.v4),
            Ip::V6 => IpAddr::V6(self.v6),
            Ip::Mapped => IpAddr::V6(self.v4.to_ipv6_mapped()),
        };
        SocketAddr::new(ip, port)
    }

    /// Waits until no connection is on its way to anywhere: besides listeners and pairs in
    /// `TIME_WAIT`, only `open` sockets exist.
    pub fn settle(&self, open: usize) {
        let mut last = Vec::new();
        let settled = wait::poll(Duration::from_mins(1), || {
            last = self.sockets();
            (last.len() == open).then_some(())
        });
        assert!(
            settled.is_some(),
            "{} sockets should be left in the namespace; these are:\n{}",
            open,
            last.join("\n")
        );
    }

    /// Waits until nobody listens any more: a process that was forked, and ends by itself, may hold a
    /// listener a little longer.
    pub fn await_no_listeners(&self) {
        let listens = || self.table().iter().any(|entry| entry.state == "LISTEN");
        let closed = wait::poll(Duration::from_mins(1), || (!listens()).then_some(()));
        assert!(closed.is_some(), "somebody still listens in the namespace");
    }

    fn sockets(&self) -> Vec<String> {
        let lines = self
            .table()
            .into_iter()
            .filter(|entry| entry.state != "TIME_WAIT" && entry.state != "LISTEN");
        lines.map(|entry| entry.line).collect()
    }

    /// What `/proc/net/tcp` and `tcp6` list.
    pub fn table(&self) -> Vec<Entry> {
        self.inside(table)
    }

    /// How many requests of a listener wait for their last ACK.
    pub fn half_open(&self, listener: SocketAddr) -> u64 {
        let table = self.table();
        let requests = table
            .iter()
            .filter(|entry| entry.state == "SYN_RECV" && entry.local == listener);
        requests.count() as u64
    }

    /// One of the counters in `/proc/net/netstat`, under `TcpExt`.
    pub fn counter(&self, name: &str) -> u64 {
        let text = self
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))
            .unwrap();
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let [names, values] = [(); 2].map(|()| lines.next().unwrap().split(' '));
        let (_, value) = names
            .zip(values)
            .find(|(other, _)| *other == name)
            .unwrap_or_else(|| panic!("no counter {name}"));
        value.parse().unwrap()
    }

    /// How many sockets there are besides those in `TIME_WAIT`, which may be too many to list.
    pub fn in_use(&self) -> u64 {
        let text = self
            .inside(|| std::fs::read_to_string("/proc/thread-self/net/sockstat"))
            .unwrap();
        let count = text.lines().find_map(|line| {
            let rest = line.strip_prefix("TCP: inuse ")?;
            rest.split(' ').next()?.parse().ok()
        });
        count.unwrap()
    }

    /// Runs something in a thread of the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            join(&self.file).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Starts a thread in the namespace, which keeps it alive.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self.file.try_clone().unwrap();
        std::thread::spawn(move || {
            join(&file).unwrap();
            work()
        })
    }

    /// By which it is named in system calls.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Lets go of the namespace. It ends when nobody else has it.
    pub fn destroy(&mut self) {
        self.file = File::open("/dev/null").unwrap();
    }

    /// Sets a value of `/proc/sys/net/ipv4`.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/ipv4/{name}");
        self.inside(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

/// One line of `/proc/net/tcp`.
#[derive(Clone, Debug)]
pub struct Entry {
    pub state: &'static str,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// Of a listener, how many connections wait to be accepted
    pub unread: u64,
    pub line: String,
}

impl Entry {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = u32::from_str_radix(words[3], 16).unwrap();
        let (_, unread) = words[4].split_once(':').unwrap();
        Self {
            state: oracle::state(state),
            local: addr(words[1]),
            remote: addr(words[2]),
            unread: u64::from_str_radix(unread, 16).unwrap(),
            line: line.to_owned(),
        }
    }
}

/// Addresses are words in the byte order of the machine.
fn addr(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let bytes: Vec<u8> = (0..ip.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(&ip[at..at + 8], 16).unwrap())
        .flat_map(u32::to_ne_bytes)
        .collect();
    let ip = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).unwrap()),
    };
    SocketAddr::new(ip.to_canonical(), u16::from_str_radix(port, 16).unwrap())
}

/// Of the namespace that the calling thread is in.
pub fn table() -> Vec<Entry> {
    ["tcp", "tcp6"]
        .into_iter()
        .flat_map(|name| {
            let table = std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
            let entries: Vec<_> = table.lines().skip(1).map(Entry::parse).collect();
            entries
        })
        .collect()
}

fn join(file: &File) -> io::Result<()> {
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Into::into)
}

/// What a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    V4,
    V6,
    /// IPv4 through IPv6 sockets
    Mapped,
}
