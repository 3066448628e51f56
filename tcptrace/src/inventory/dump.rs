//! The TCP sockets of network namespaces, by `NETLINK_SOCK_DIAG`. Needs no right but to enter namespaces.

use std::{
    collections::{HashMap, hash_map::Entry},
    os::fd::OwnedFd,
};

use anyhow::Context as _;
use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send},
};
use tcptrace_common::tcp;
use zerocopy::IntoBytes as _;

use super::{
    socket::{Counters, Socket},
    wire::{self, Ask, Family, Next, Request},
};

/// The kernel fills at most 32 KiB at a time today.
const BUFFER_BYTES: usize = 256 * 1024;
/// A state's bit is its number.
pub const ALL_STATES: u16 = 0xfff;

/// What to look for, and what to ask of it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Families
    pub v4: bool,
    /// Families
    pub v6: bool,
    /// A bit each, by the kernel's number
    pub states: u16,
    /// What connections are asked
    pub counters: bool,
}

/// What was found, in the order of the kernel's tables.
#[derive(Debug, Default)]
pub struct Found {
    /// Each once
    pub sockets: Vec<Socket>,
    /// What `Socket::counters` points into
    pub counters: Vec<Counters>,
    /// Where each is; ids are of the whole host
    places: HashMap<u64, u32>,
    /// Came twice: a socket that has moved in the kernel's tables meanwhile
    pub repeated: u64,
}

impl Found {
    /// Where the socket with this id is.
    pub fn place(&self, cookie: u64) -> Option<u32> {
        self.places.get(&cookie).copied()
    }

    /// How long a connection has been waiting in the accept queue: nobody can have sent on it since the handshake,
    /// which set `tp->lsndtime`.
    pub fn waiting_us(&self, socket: &Socket) -> Option<u64> {
        let counters = self.counters.get(usize::try_from(socket.counters).ok()?)?;
        let waits = socket.may_be_queued() && counters.data_tx_segs == 0;
        waits.then(|| u64::from(counters.last_sent_ms) * 1000)
    }

    /// Notes whether a socket has `SO_KEEPALIVE`.
    pub fn keeps_alive(&mut self, place: u32, keepalive: bool) {
        let socket = usize::try_from(place)
            .ok()
            .and_then(|place| self.sockets.get_mut(place));
        if let Some(socket) = socket {
            socket.keepalive = Some(keepalive);
        }
    }

    /// The later sight of a socket is the truer one.
    fn add(&mut self, mut socket: Socket, counters: Option<Counters>) {
        let Ok(next) = u32::try_from(self.sockets.len()) else {
            return;
        };
        let at = match self.places.entry(socket.cookie) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(next);
                None
            }
        };
        if let (Some(counters), Ok(place)) = (counters, u32::try_from(self.counters.len())) {
            socket.counters = place;
            self.counters.push(counters);
        }
        if let Some(known) = at.and_then(|at| self.sockets.get_mut(usize::try_from(at).ok()?)) {
            self.repeated += 1;
            *known = socket;
        } else {
            self.sockets.push(socket);
        }
    }
}

/// A netlink socket of the calling thread's network namespace.
pub fn open() -> anyhow::Result<OwnedFd> {
    rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )
    .context("cannot open a netlink socket for sock_diag")
}

/// Adds the sockets of one namespace; `netns` is what they are marked with.
pub fn look(fd: &OwnedFd, netns: u16, wanted: Wanted, found: &mut Found) -> anyhow::Result<()> {
    let listening = 1 << tcp::LISTEN;
    let mut buffer = vec![0; BUFFER_BYTES];
    // Listeners apart: they stand in a table of their own, and are asked other things.
    let parts = [
        (
            wanted.states & listening,
            Ask {
                counters: false,
                memory: true,
            },
        ),
        (
            wanted.states & !listening,
            Ask {
                counters: wanted.counters,
                memory: false,
            },
        ),
    ];
    for (states, ask) in parts {
        for (family, is_wanted) in [(Family::V4, wanted.v4), (Family::V6, wanted.v6)] {
            if is_wanted && states != 0 {
                let request = Request::new(family, states, ask);
                dump(fd, &request, &mut buffer, |socket, counters| {
                    found.add(Socket { netns, ..socket }, counters);
                })?;
            }
        }
    }
    Ok(())
}

fn dump(
    fd: &OwnedFd,
    request: &Request,
    buffer: &mut [u8],
    mut found: impl FnMut(Socket, Option<Counters>),
) -> anyhow::Result<()> {
    send(fd, request.as_bytes(), SendFlags::empty()).context("sock_diag takes no request")?;
    loop {
        let len = match recv(fd, &mut *buffer, RecvFlags::TRUNC) {
            Ok((_, len)) => len,
            Err(Errno::INTR) => continue,
            Err(why) => return Err(why).context("sock_diag does not answer"),
        };
        let bytes = buffer
            .get(..len)
            .context("an answer of sock_diag is too long")?;
        match wire::read(bytes, &mut found) {
            Next::More if len > 0 => {}
            Next::More | Next::Done => return Ok(()),
            Next::Refused(errno) if errno == Errno::NOENT.raw_os_error() => {
                anyhow::bail!(
                    "this kernel does not list its TCP sockets: the module tcp_diag is missing; try: \
                     sudo modprobe tcp_diag"
                );
            }
            Next::Refused(errno) => {
                return Err(Errno::from_raw_os_error(errno)).context("sock_diag refuses");
            }
        }
    }
}
