//! What a record of the ring means. Pure: bytes in, values out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::{
    record::{
        FLAG_DEDUCED, FLAG_FIRST, FLAG_MAPPED, FLAG_PARTIAL, KIND_ACCEPT, KIND_CLOSE, KIND_SOCKET,
        KIND_STEPS, KIND_TRANSITION, PathRecord, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Record,
        SOURCE_ACCEPT, SOURCE_CONNECT, SOURCE_LISTEN, SOURCE_LISTENER, SOURCE_SNAPSHOT,
        SPAN_UNKNOWN, Step,
    },
    tcp,
};
use zerocopy::FromBytes as _;

/// Why a record could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than its kind needs.
    #[error("record of {len} bytes is too short")]
    Short {
        /// Bytes it has
        len: usize,
    },
    /// A kind that this version does not know.
    #[error("unknown record kind {0}")]
    Kind(u8),
}

/// One record, decoded.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A connection open at start
    Socket(Connection),
    /// A state change
    Transition(Connection),
    /// `accept()` returned the connection
    Accept(Connection),
    /// The last state change and the totals
    Close(Connection, Totals),
}

/// What every record says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection(Record);

/// What the last record says of the whole connection.
#[derive(Clone, Copy, Debug)]
pub struct Totals(PathRecord);

impl Event {
    /// Decodes one record of the ring or of a snapshot, and hands on what it tells of, oldest
    /// first, until `each` returns false. Returns what `each` returned last.
    pub fn decode(bytes: &[u8], mut each: impl FnMut(&Self) -> bool) -> Result<bool, DecodeError> {
        let short = || DecodeError::Short { len: bytes.len() };
        let (record, _rest) = Record::read_from_prefix(bytes).map_err(|_too_short| short())?;
        let connection = Connection(record);
        match record.kind {
            KIND_SOCKET => Ok(each(&Self::Socket(connection))),
            KIND_TRANSITION => Ok(each(&Self::Transition(connection))),
            KIND_ACCEPT => Ok(each(&Self::Accept(connection))),
            KIND_CLOSE | KIND_STEPS => {
                let (path, _rest) =
                    PathRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let totals = Totals(path);
                let last = totals.path().len().saturating_sub(1);
                // A step without a time is a state it was found in, not a change.
                let changes = (usize::from(path.untold)..last)
                    .filter(|index| totals.path()[*index].mono_ns() != 0);
                for index in changes {
                    if !each(&Self::Transition(totals.waited(index))) {
                        return Ok(false);
                    }
                }
                Ok(if record.kind == KIND_CLOSE {
                    each(&Self::Close(connection, totals))
                } else {
                    each(&Self::Transition(connection))
                })
            }
            kind => Err(DecodeError::Kind(kind)),
        }
    }

    /// What it says of the connection.
    pub const fn connection(&self) -> &Connection {
        match self {
            Self::Socket(connection)
            | Self::Transition(connection)
            | Self::Accept(connection)
            | Self::Close(connection, _) => connection,
        }
    }
}

impl Connection {
    /// `CLOCK_MONOTONIC`
    pub const fn mono_ns(&self) -> u64 {
        self.0.mono_ns
    }

    /// The connection's id
    pub const fn id(&self) -> u64 {
        self.0.conn
    }

    /// `client`, `server`, `listener` or `unknown`
    pub const fn role(&self) -> &'static str {
        match self.0.role {
            ROLE_CLIENT => "client",
            ROLE_SERVER => "server",
            ROLE_LISTENER => "listener",
            _ => "unknown",
        }
    }

    /// Whether it listens, and so has no remote end.
    pub const fn is_listener(&self) -> bool {
        self.0.role == ROLE_LISTENER
    }

    /// Whether its addresses are IPv4 (mapped ones included).
    pub const fn is_v4(&self) -> bool {
        self.0.family == 4
    }

    /// Whether it is an IPv6 socket with IPv4-mapped addresses.
    pub const fn is_mapped(&self) -> bool {
        self.0.flags & FLAG_MAPPED != 0
    }

    /// Local address
    pub fn laddr(&self) -> IpAddr {
        self.address(self.0.laddr)
    }

    /// Remote address; none for a listener
    pub fn raddr(&self) -> Option<IpAddr> {
        (!self.is_listener() && self.0.raddr != [0; 2]).then(|| self.address(self.0.raddr))
    }

    /// Local port; none if the socket never had one
    pub fn lport(&self) -> Option<u16> {
        (self.0.lport != 0).then_some(self.0.lport)
    }

    /// Remote port; none for a listener
    pub fn rport(&self) -> Option<u16> {
        (!self.is_listener() && self.0.rport != 0).then_some(self.0.rport)
    }

    /// Network namespace inode
    pub const fn netns(&self) -> u32 {
        self.0.netns
    }

    /// The owning process: thread group in the initial PID namespace
    pub fn pid(&self) -> Option<u32> {
        (self.0.owner.tgid != 0).then_some(self.0.owner.tgid)
    }

    /// User id of the owner; none if there is no owner
    pub fn uid(&self) -> Option<u32> {
        self.pid().map(|_owner| self.0.owner.uid)
    }

    /// cgroup v2 id of the owner when it came to own the connection
    pub fn cgroup(&self) -> Option<u64> {
        (self.0.owner.tgid != 0 && self.0.owner.cgroup != 0).then_some(self.0.owner.cgroup)
    }

    /// Name of the owner: bytes that anybody may choose, without the padding. Empty: none.
    pub fn comm(&self) -> &[u8] {
        let comm = &self.0.owner.comm;
        let len = comm
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(comm.len());
        if self.0.owner.tgid == 0 {
            &[]
        } else {
            &comm[..len]
        }
    }

    /// How the owner is known
    pub const fn pid_source(&self) -> &'static str {
        match self.0.source {
            SOURCE_CONNECT => "connect",
            SOURCE_LISTEN => "listen",
            SOURCE_LISTENER => "listener",
            SOURCE_ACCEPT => "accept",
            SOURCE_SNAPSHOT => "snapshot",
            _ => "unknown",
        }
    }

    /// Whether the owner is only the listener's, until somebody accepts.
    pub const fn is_provisional(&self) -> bool {
        self.0.source == SOURCE_LISTENER
    }

    /// State before; of a socket open at start, its state
    pub const fn oldstate(&self) -> State {
        State(self.0.old)
    }

    /// State after
    pub const fn newstate(&self) -> State {
        State(self.0.new)
    }

    /// Time in the old state, or in the accept queue; none if its start went unseen
    pub fn span_us(&self) -> Option<u64> {
        (self.0.span_ns != SPAN_UNKNOWN).then_some(self.0.span_ns / 1000)
    }

    /// The listening process, in an accept record
    pub fn peer_pid(&self) -> Option<u32> {
        (self.0.peer_pid != 0).then_some(self.0.peer_pid)
    }

    /// Whether this is the first record of the connection.
    pub const fn is_first(&self) -> bool {
        self.0.flags & FLAG_FIRST != 0
    }

    /// Whether it was open before tracing began.
    pub const fn is_partial(&self) -> bool {
        self.0.flags & FLAG_PARTIAL != 0
    }

    fn address(&self, words: [u64; 2]) -> IpAddr {
        let bytes: [u8; 16] = zerocopy::transmute!(words);
        if self.is_v4() {
            IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
    }
}

impl Totals {
    /// Whether its last transition went unseen and is counted as lost.
    pub const fn is_deduced(&self) -> bool {
        self.0.head.flags & FLAG_DEDUCED != 0
    }

    /// A step of the path that had to wait for the last one.
    fn waited(&self, index: usize) -> Connection {
        let mut record = self.0.head;
        let path = self.path();
        let (step, before) = (path[index], index.checked_sub(1).map(|before| path[before]));
        record.kind = KIND_TRANSITION;
        record.mono_ns = step.mono_ns();
        record.new = step.state();
        record.span_ns = SPAN_UNKNOWN;
        record.peer_pid = 0;
        record.seq = u8::try_from(index).unwrap_or(u8::MAX);
        record.flags &= !FLAG_FIRST;
        if let Some(before) = before {
            record.old = before.state();
            if before.mono_ns() != 0 {
                record.span_ns = step.mono_ns().saturating_sub(before.mono_ns());
            }
        } else {
            // A life begins in CLOSE, or as a clone of a listener.
            record.old = if record.role == ROLE_SERVER {
                tcp::LISTEN
            } else {
                tcp::CLOSE
            };
            record.flags |= FLAG_FIRST;
        }
        Connection(record)
    }

    /// The process that closed it
    pub fn closer_pid(&self) -> Option<u32> {
        (self.0.head.peer_pid != 0).then_some(self.0.head.peer_pid)
    }

    /// From the first step to the end; none if the beginning went unseen
    pub fn duration_us(&self) -> Option<u64> {
        let first = self.path().first()?;
        (first.mono_ns() != 0).then(|| self.end_ns().saturating_sub(first.mono_ns()) / 1000)
    }

    /// From the SYN to ESTABLISHED, as the client saw it
    pub fn connect_us(&self) -> Option<u64> {
        let [syn, rest @ ..] = self.path() else {
            return None;
        };
        if self.0.head.role != ROLE_CLIENT || syn.state() != tcp::SYN_SENT {
            return None;
        }
        let established = rest.iter().find(|step| step.state() == tcp::ESTABLISHED)?;
        Some(established.mono_ns().saturating_sub(syn.mono_ns()) / 1000)
    }

    /// Time in the accept queue
    pub fn accept_wait_us(&self) -> Option<u64> {
        let queued = self
            .path()
            .iter()
            .find(|step| step.state() == tcp::ESTABLISHED && step.mono_ns() != 0)?;
        (self.0.accept_ns != 0).then(|| self.0.accept_ns.saturating_sub(queued.mono_ns()) / 1000)
    }

    /// Each state it was in and for how long, µs, in the order they were entered; a state entered
    /// before we came is left out. `close()` after `shutdown()` reports the present state once
    /// more: its two parts are one.
    pub fn states(&self) -> impl Iterator<Item = (State, u64)> {
        let path = self.path();
        let lasted_us = move |at: usize| {
            let left_ns = path
                .get(at + 1)
                .map_or(self.end_ns(), |next| next.mono_ns());
            left_ns.saturating_sub(path[at].mono_ns()) / 1000
        };
        let known = move |at: usize| {
            path[at].mono_ns() != 0 && (at + 1 < path.len() || path[at].state() != tcp::CLOSE)
        };
        let repeats = move |at: usize| {
            path[..at]
                .iter()
                .any(|earlier| earlier.state() == path[at].state() && earlier.mono_ns() != 0)
        };
        (0..path.len())
            .filter(move |at| known(*at) && !repeats(*at))
            .map(move |at| {
                let state = path[at].state();
                let us = (at..path.len())
                    .filter(|later| known(*later) && path[*later].state() == state)
                    .map(lasted_us)
                    .sum();
                (State(state), us)
            })
    }

    /// Why it ended, as far as the path and the socket's error prove it.
    pub fn reason(&self) -> &'static str {
        let path = self.path();
        let passed = |state| path.iter().any(|step| step.state() == state);
        let both_fins = passed(tcp::FIN_WAIT2) || passed(tcp::CLOSING) || passed(tcp::LAST_ACK);
        // Set by `tcp_close` before the state changes, by `tcp_done` after it.
        let by_close = self.0.shutdown == SHUTDOWN_BOTH && !self.is_deduced();
        let from = self.0.head.old;
        // A listener may keep the error of what the socket was before.
        if self.0.head.role == ROLE_LISTENER {
            return "normal";
        }
        match self.0.err {
            ECONNREFUSED => "refused",
            ETIMEDOUT => "timeout",
            EHOSTUNREACH | ENETUNREACH => "unreachable",
            ECONNRESET | EPIPE => "reset_received",
            0 if both_fins => "normal",
            0 if by_close && from == tcp::SYN_SENT => "canceled",
            // Neither FIN went out: `tcp_close` with linger 0 or unread data aborts.
            0 if by_close && matches!(from, tcp::ESTABLISHED | tcp::CLOSE_WAIT) => "reset_sent",
            // `inet_csk_listen_stop` ends what nobody has accepted.
            0 if self.0.head.role == ROLE_SERVER
                && self.0.accept_ns == 0
                && self.0.shutdown != SHUTDOWN_BOTH
                && !self.is_deduced()
                && matches!(from, tcp::ESTABLISHED | tcp::CLOSE_WAIT) =>
            {
                "listener_closed"
            }
            _ => "unknown",
        }
    }

    /// The socket's error as its symbol
    pub const fn errno(&self) -> Option<&'static str> {
        if self.0.head.role == ROLE_LISTENER {
            return None;
        }
        Some(match self.0.err {
            ECONNREFUSED => "ECONNREFUSED",
            ETIMEDOUT => "ETIMEDOUT",
            EHOSTUNREACH => "EHOSTUNREACH",
            ENETUNREACH => "ENETUNREACH",
            ECONNRESET => "ECONNRESET",
            EPIPE => "EPIPE",
            ECONNABORTED => "ECONNABORTED",
            _ => return None,
        })
    }

    const fn end_ns(&self) -> u64 {
        self.0.head.mono_ns
    }

    fn path(&self) -> &[Step] {
        let len = usize::from(self.0.path_len).min(self.0.path.len());
        &self.0.path[..len]
    }
}

/// `SHUTDOWN_MASK`, include/net/sock.h
const SHUTDOWN_BOTH: u8 = 3;

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;

/// A TCP state by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    /// The kernel's name, without `TCP_`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            tcp::ESTABLISHED => "ESTABLISHED",
            tcp::SYN_SENT => "SYN_SENT",
            tcp::SYN_RECV | tcp::NEW_SYN_RECV => "SYN_RECV",
            tcp::FIN_WAIT1 => "FIN_WAIT1",
            tcp::FIN_WAIT2 => "FIN_WAIT2",
            tcp::TIME_WAIT => "TIME_WAIT",
            tcp::CLOSE => "CLOSE",
            tcp::CLOSE_WAIT => "CLOSE_WAIT",
            tcp::LAST_ACK => "LAST_ACK",
            tcp::LISTEN => "LISTEN",
            tcp::CLOSING => "CLOSING",
            _ => "UNKNOWN",
        }
    }
}
