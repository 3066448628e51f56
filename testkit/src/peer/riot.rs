//! Threads that do whatever changes the state or the holder of a socket, to the same sockets at once.
//!
//! What each process is sure of it notes: which connections it opened, and which it accepted.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, ipproto, sockopt,
    },
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use super::socket::canonical;
use crate::sock_diag::destroy;

const THREADS: u64 = 3;
/// Sockets that a process has open at once.
const POOL: usize = 40;
/// Descriptors of siblings are looked for below this.
const DESCRIPTORS: u64 = 64;

/// Ports that are not chosen by the kernel, a share for each process.
const FIRST_PORT: u16 = 2000;
const PORTS: u16 = 10_000;

/// Numbers that look like chance (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

struct Riot<'listener> {
    listener: &'listener TcpListener,
    addr: SocketAddr,
    siblings: Vec<i32>,
    /// The next port to connect from: of these no other process has any
    ports: AtomicU16,
    pool: Mutex<Vec<Arc<OwnedFd>>>,
    /// `c LOCAL REMOTE`: connected; `a LOCAL REMOTE`: accepted; `h PID`: this child has held all there was
    notes: Mutex<Vec<String>>,
}

/// For so long, with others that do the same. Returns what is known for sure.
pub(super) fn run(
    listener: &TcpListener,
    seed: u64,
    time: Duration,
    siblings: Vec<i32>,
) -> io::Result<String> {
    listener.set_nonblocking(true)?;
    let riot = Riot {
        listener,
        addr: listener.local_addr()?,
        siblings,
        ports: AtomicU16::new(FIRST_PORT + u16::try_from(seed % 10).unwrap() * PORTS),
        pool: Mutex::new(Vec::new()),
        notes: Mutex::new(Vec::new()),
    };
    let end = Instant::now() + time;
    thread::scope(|scope| {
        for thread in 1..=THREADS {
            let riot = &riot;
            let mut chance = Chance(seed * 1000 + thread * 7919);
            scope.spawn(move || {
                while Instant::now() < end {
                    riot.act(&mut chance);
                }
            });
        }
    });
    riot.pool.lock().unwrap().clear();
    Ok(riot.notes.into_inner().unwrap().join(","))
}

impl Riot<'_> {
    /// Whatever comes of it is as it may be.
    fn act(&self, chance: &mut Chance) {
        match chance.below(26) {
            0..6 => drop(self.connect(chance)),
            6..12 => drop(self.accept()),
            12 => self.steal(chance),
            13 => self.fork(chance),
            other => {
                if let Some(socket) = self.any(chance) {
                    self.handle(other, &socket, chance);
                }
            }
        }
    }

    fn any(&self, chance: &mut Chance) -> Option<Arc<OwnedFd>> {
        let pool = self.pool.lock().unwrap();
        let len = u64::try_from(pool.len()).unwrap();
        let at = usize::try_from(chance.below(len.max(1))).unwrap();
        pool.get(at).cloned()
    }

    fn keep(&self, socket: Arc<OwnedFd>) {
        let mut pool = self.pool.lock().unwrap();
        let dropped = (pool.len() >= POOL).then(|| pool.remove(0));
        pool.push(socket);
        drop(pool);
        drop(dropped);
    }

    fn note(&self, what: &str, local: SocketAddr, remote: SocketAddr) {
        let note = format!("{what} {} {}", canonical(local), canonical(remote));
        self.notes.lock().unwrap().push(note);
    }

    fn connect(&self, chance: &mut Chance) -> io::Result<()> {
        let protocol = (chance.below(8) == 0).then_some(ipproto::MPTCP);
        let flags = if chance.below(2) == 0 {
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK
        } else {
            SocketFlags::CLOEXEC
        };
        let family = AddressFamily::INET;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, protocol)?;
        if chance.below(4) == 0 {
            super::odd::set_flag(&socket, libc::IPPROTO_IP, libc::IP_RECVERR)?;
        }
        if chance.below(8) == 0 {
            let _said = rustix::net::shutdown(&socket, Shutdown::Both);
        }
        // A port that was asked for stays the socket's, so it is known whose connection has it.
        let port = self.ports.fetch_add(1, Ordering::Relaxed);
        rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        let mut to = self.addr;
        if chance.below(12) == 0 {
            // Nobody listens there.
            to.set_port(1);
        }
        self.dial(&Arc::new(socket), to, chance)
    }

    /// Connects a socket, perhaps not for the first time.
    fn dial(&self, socket: &Arc<OwnedFd>, to: SocketAddr, chance: &mut Chance) -> io::Result<()> {
        // Both before, so that others may meddle.
        let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
        self.note("c", local, to);
        self.keep(Arc::clone(socket));
        let done = if chance.below(6) == 0 {
            let flags = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
            rustix::net::sendto(socket, b"x", flags, &to).map(drop)
        } else {
            rustix::net::connect(socket, &to)
        };
        Ok(done?)
    }

    fn accept(&self) -> io::Result<()> {
        let (socket, remote) = self.listener.accept()?;
        self.note("a", self.addr, remote);
        self.keep(Arc::new(OwnedFd::from(socket)));
        Ok(())
    }

    /// Takes a descriptor of a sibling's, and lets go of it soon.
    fn steal(&self, chance: &mut Chance) {
        let at = usize::try_from(chance.below(self.siblings.len() as u64)).unwrap();
        let descriptor = i32::try_from(chance.below(DESCRIPTORS)).unwrap();
        let stolen = pidfd_open(
            Pid::from_raw(self.siblings[at]).unwrap(),
            PidfdFlags::empty(),
        )
        .and_then(|sibling| pidfd_getfd(sibling, descriptor, PidfdGetfdFlags::empty()));
        let Ok(stolen) = stolen else { return };
        let is_connection = sockopt::socket_type(&stolen) == Ok(SocketType::STREAM)
            && sockopt::socket_acceptconn(&stolen) == Ok(false)
            && sockopt::socket_domain(&stolen) == Ok(AddressFamily::INET);
        if is_connection {
            self.handle(14 + chance.below(8), &stolen, chance);
        }
    }

    /// A child that holds all of our sockets for a moment.
    fn fork(&self, chance: &mut Chance) {
        let micros = u32::try_from(chance.below(3000)).unwrap();
        // SAFETY: the child calls nothing but what may be called after a fork.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: a number.
                unsafe { libc::usleep(micros) };
                // SAFETY: it ends this process.
                unsafe { libc::_exit(0) };
            }
            -1 => {}
            child => {
                // SAFETY: the status may be null.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                self.notes.lock().unwrap().push(format!("h {child}"));
            }
        }
    }

    fn handle(&self, what: u64, socket: &OwnedFd, chance: &mut Chance) {
        let _as_it_may_be = self.try_handle(what, socket, chance);
    }

    fn try_handle(&self, what: u64, socket: &OwnedFd, chance: &mut Chance) -> io::Result<()> {
        match what {
            14 | 15 => {
                let bytes = vec![b'x'; usize::try_from(1 + chance.below(3000)).unwrap()];
                rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
            }
            16 | 17 => {
                let mut bytes = [0; 2000];
                rustix::net::recv(socket, &mut bytes[..], RecvFlags::DONTWAIT)?;
            }
            18 => rustix::net::shutdown(socket, Shutdown::Write)?,
            19 => rustix::net::shutdown(socket, Shutdown::Both)?,
            20 => rustix::net::connect_unspec(socket.as_fd())?,
            21 => sockopt::set_socket_linger(socket, Some(Duration::ZERO))?,
            22 => {
                let twin = rustix::io::dup(socket)?;
                self.keep(Arc::new(twin));
            }
            23 => {
                let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
                let remote = rustix::net::getpeername(socket)?;
                if let Some(remote) = remote {
                    destroy(local, SocketAddr::try_from(remote)?)?;
                }
            }
            24 => {
                // Once more, if it is free by now.
                let local = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
                if local.ip() == Ipv4Addr::LOCALHOST {
                    self.note("c", local, self.addr);
                    rustix::net::connect(socket, &self.addr)?;
                }
            }
            _ => {
                // Closed when nobody else is at it.
                let mut pool = self.pool.lock().unwrap();
                let fd = socket.as_raw_fd();
                let at = pool.iter().position(|other| other.as_raw_fd() == fd);
                let closed = at.map(|at| pool.swap_remove(at));
                drop(pool);
                drop(closed);
            }
        }
        Ok(())
    }
}
