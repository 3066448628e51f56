//! A thread that takes a descriptor away before the `accept()` that returns it has come back.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    sync::atomic::{AtomicI32, Ordering},
    thread,
};

/// What the thread does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theft {
    /// Moves it to another number
    Move,
    /// Closes it
    Close,
}

/// Nothing to take.
const IDLE: RawFd = -1;
/// Numbers that are never the lowest free one.
const ELSEWHERE: RawFd = 500;

/// Accepts so many connections and loses each, by this theft: `move` or `close`. Returns who they came from.
pub(super) fn run(listener: &TcpListener, count: usize, how: &str) -> io::Result<String> {
    let theft = if how == "move" {
        Theft::Move
    } else {
        Theft::Close
    };
    let clients = accept(listener, count, theft)?;
    let clients = clients.iter().map(ToString::to_string);
    Ok(clients.collect::<Vec<_>>().join(","))
}

fn accept(listener: &TcpListener, count: usize, theft: Theft) -> io::Result<Vec<SocketAddr>> {
    let wanted = AtomicI32::new(IDLE);
    let over = AtomicI32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while over.load(Ordering::Acquire) == 0 {
                let fd = wanted.load(Ordering::Acquire);
                let mut kept = Vec::new();
                if fd != IDLE && take(fd, theft, &mut kept) {
                    wanted.store(IDLE, Ordering::Release);
                    for moved in kept {
                        // The client closes first.
                        let mut stream = TcpStream::from(moved);
                        let rest = stream.read(&mut [0]).unwrap();
                        assert_eq!(rest, 0, "somebody spoke");
                    }
                }
            }
        });
        let all = (0..count).map(|_| lose(listener, &wanted)).collect();
        over.store(1, Ordering::Release);
        all
    })
}

fn lose(listener: &TcpListener, wanted: &AtomicI32) -> io::Result<SocketAddr> {
    let next = rustix::io::dup(listener)?;
    let number = next.as_raw_fd();
    drop(next);
    wanted.store(number, Ordering::Release);
    // The address comes with it: afterwards the number may stand for nothing.
    let mut addr: libc::sockaddr_in = any_address();
    let mut len = libc::socklen_t::try_from(size_of_val(&addr)).unwrap();
    // SAFETY: the kernel writes at most `len` bytes into `addr`.
    let fd = unsafe { libc::accept(listener.as_raw_fd(), (&raw mut addr).cast(), &raw mut len) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    while wanted.load(Ordering::Acquire) != IDLE {
        thread::yield_now();
    }
    let ip = Ipv4Addr::from(addr.sin_addr.s_addr.to_ne_bytes());
    Ok((ip, u16::from_be(addr.sin_port)).into())
}

fn any_address() -> libc::sockaddr_in {
    // SAFETY: any bytes are a `sockaddr_in`.
    unsafe { std::mem::zeroed() }
}

/// Whether it was there to be taken.
fn take(fd: RawFd, theft: Theft, kept: &mut Vec<OwnedFd>) -> bool {
    if theft == Theft::Move {
        // SAFETY: a number that may stand for nothing yet.
        let moved = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, ELSEWHERE) };
        if moved < 0 {
            return false;
        }
        // SAFETY: it is ours alone from here on.
        let moved = unsafe { OwnedFd::from_raw_fd(moved) };
        kept.push(moved);
    }
    // SAFETY: nobody else uses the number: `accept()` leaves it to us.
    unsafe { libc::close(fd) == 0 }
}
