//! What the processes of the load know of their own sockets, and say before they close them.
//!
//! A claim is smaller than what a pipe takes in one piece, so all processes write into one. A
//! socket is named by its cookie, which is `conn` in the tracer's records.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::socket_cookie;

/// Bytes of a claim in the pipe.
pub(super) const LEN: usize = 48;

/// Bytes of a process's name.
pub(super) const COMM_LEN: usize = 15;

/// How a process came to its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connected,
    Accepted,
    Listens,
}

/// A process's word about a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) cookie: u64,
    /// When it was made, `CLOCK_MONOTONIC`
    pub(super) mono_us: u64,
    /// In the initial PID namespace
    pub(super) pid: u32,
    /// Whose listener an accepted connection comes from
    pub(super) listener: u32,
    pub(super) kind: Kind,
    comm: [u8; COMM_LEN],
}

impl Claim {
    pub(super) fn comm(&self) -> &str {
        let len = self.comm.iter().position(|byte| *byte == 0);
        str::from_utf8(&self.comm[..len.unwrap_or(COMM_LEN)]).unwrap_or_default()
    }

    fn encode(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.cookie.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.mono_us.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[20..24].copy_from_slice(&self.listener.to_ne_bytes());
        bytes[24] = self.kind as u8;
        bytes[25..25 + COMM_LEN].copy_from_slice(&self.comm);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; LEN]) -> Self {
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        Self {
            cookie: long(0),
            mono_us: long(8),
            pid: word(16),
            listener: word(20),
            kind: match bytes[24] {
                0 => Kind::Connected,
                1 => Kind::Accepted,
                _ => Kind::Listens,
            },
            comm: bytes[25..25 + COMM_LEN].try_into().unwrap_or_default(),
        }
    }
}

/// A process of the load, as the tracer has to name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    pub(super) pid: u32,
    comm: [u8; COMM_LEN],
}

impl Who {
    /// The calling process, which is given this name. Its one thread has to be the calling one.
    pub(super) fn become_known_as(name: &str) -> io::Result<Self> {
        let name: Vec<u8> = name.bytes().take(COMM_LEN).collect();
        let mut comm = [0; COMM_LEN];
        comm[..name.len()].copy_from_slice(&name);
        rustix::thread::set_name(&std::ffi::CString::new(name)?)?;
        // The mount of `/proc` is the initial PID namespace's, and so is what it calls us.
        let pid = std::fs::read_link("/proc/self")?;
        let pid = pid.to_str().and_then(|pid| pid.parse().ok());
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, comm })
    }

    /// Says that a socket is this process's.
    pub(super) fn claims(self, socket: impl AsFd, kind: Kind, listener: u32) -> io::Result<()> {
        let claim = Claim {
            cookie: socket_cookie(socket)?,
            mono_us: super::mono_us(),
            pid: self.pid,
            listener,
            kind,
            comm: self.comm,
        };
        // Standard output is the pipe. Past std's buffer, which would cut a claim in two.
        rustix::io::write(io::stdout().as_fd(), &claim.encode())?;
        Ok(())
    }
}
