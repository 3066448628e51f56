//! What a record of the ring means. Pure: bytes in, values out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::{
    record::{
        Counters, FLAG_DEDUCED, FLAG_FIRST, FLAG_HISTORY, FLAG_INFERRED, FLAG_MAPPED,
        FLAG_NO_FASTOPEN, FLAG_PARTIAL, KIND_ACCEPT, KIND_CLOSE, KIND_LISTENER, KIND_RESET,
        KIND_RETRANSMIT, KIND_SOCKET, KIND_STEPS, KIND_TRANSITION, KNOWN_COUNTERS, KNOWN_EXPIRED,
        KNOWN_HANDSHAKE, KNOWN_ISN, NotedRecord, OPTION_ECN, OPTION_FASTOPEN, OPTION_SACK,
        OPTION_TIMESTAMPS, OPTION_WSCALE, PathRecord, RESET_RECEIVED, RESET_SENT, RETRANSMIT_SYN,
        RETRANSMIT_SYNACK, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Record, SOURCE_ACCEPT,
        SOURCE_CONNECT, SOURCE_LISTEN, SOURCE_LISTENER, SOURCE_SNAPSHOT, SPAN_UNKNOWN, Step,
        UNKNOWN,
    },
    tcp,
};
use zerocopy::{FromBytes as _, IntoBytes as _};

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
#[expect(
    clippy::large_enum_variant,
    reason = "one is alive at a time, on the stack"
)]
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A connection open at start
    Socket(Connection),
    /// A state change
    Transition(Connection),
    /// `accept()` returned the connection
    Accept(Connection, Numbers),
    /// A segment was sent again
    Retransmit(Connection, Numbers),
    /// RST sent or received
    Reset(Connection, Numbers),
    /// What goes wrong at a listener
    Listener(Connection, Numbers),
    /// The last state change and the totals
    Close(Connection, Totals),
}

/// What every record says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection(Record);

/// What the last record says of the whole connection.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    path: PathRecord,
    counters: Counters,
    hides_transition: bool,
}

/// Numbers that a record brings along; what they are, its kind says.
#[derive(Clone, Copy, Debug)]
pub struct Numbers([u32; 6]);

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
            KIND_ACCEPT | KIND_RETRANSMIT | KIND_RESET | KIND_LISTENER => {
                let (noted, _rest) =
                    NotedRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let numbers = Numbers(noted.numbers);
                Ok(each(&match record.kind {
                    KIND_ACCEPT => Self::Accept(connection, numbers),
                    KIND_RETRANSMIT => Self::Retransmit(connection, numbers),
                    KIND_RESET => Self::Reset(connection, numbers),
                    _ => Self::Listener(connection, numbers),
                }))
            }
            KIND_CLOSE | KIND_STEPS => {
                let (path, rest) =
                    PathRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let counters = if record.kind == KIND_CLOSE {
                    Counters::read_from_prefix(rest)
                        .map_err(|_too_short| short())?
                        .0
                } else {
                    Counters::NONE
                };
                let totals = Totals {
                    path,
                    counters,
                    hides_transition: false,
                };
                let last = totals.path().len().saturating_sub(1);
                // A step without a time is a state it was found in, not a change.
                let changes = (usize::from(path.untold)..last)
                    .filter(|index| totals.path()[*index].mono_ns() != 0);
                let mut accept = totals.untold_accept();
                for index in changes.chain(std::iter::once(last)) {
                    let at_ns = totals
                        .path()
                        .get(index)
                        .map_or(u64::MAX, |step| step.mono_ns());
                    if let Some(accepted) = accept.take_if(|accept| accept.mono_ns() < at_ns)
                        && !each(&Self::Accept(accepted, Numbers([UNKNOWN; 6])))
                    {
                        return Ok(false);
                    }
                    if index == last {
                        break;
                    }
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
            | Self::Accept(connection, _)
            | Self::Retransmit(connection, _)
            | Self::Reset(connection, _)
            | Self::Listener(connection, _)
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

    /// Whether everything that stays the same from record to record is the same in both: id, role,
    /// ends, owner.
    pub fn is_described_as(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        let parts = |record: &Record| {
            (
                record.conn,
                (record.lport, record.rport, record.netns),
                (record.role, record.family, record.source),
                record.flags & FLAG_MAPPED,
            )
        };
        parts(a) == parts(b)
            && a.laddr == b.laddr
            && a.raddr == b.raddr
            && a.owner.as_bytes() == b.owner.as_bytes()
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
        (self.0.raddr != [0; 2]).then(|| self.address(self.0.raddr))
    }

    /// Local port; none if the socket never had one
    pub fn lport(&self) -> Option<u16> {
        (self.0.lport != 0).then_some(self.0.lport)
    }

    /// Remote port; none for a listener
    pub fn rport(&self) -> Option<u16> {
        (self.0.rport != 0).then_some(self.0.rport)
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

    /// Whether the kernel gave no direct sight of this state change, so that its time is when it was
    /// found.
    pub const fn is_inferred(&self) -> bool {
        self.0.flags & FLAG_INFERRED != 0
    }

    /// Whether its listener takes no Fast Open.
    pub const fn is_without_fastopen(&self) -> bool {
        self.0.flags & FLAG_NO_FASTOPEN != 0
    }

    /// Of a retransmission: `syn`, `synack`, `data`
    pub const fn retransmitted(&self) -> &'static str {
        match self.0.seq {
            RETRANSMIT_SYN => "syn",
            RETRANSMIT_SYNACK => "synack",
            _ => "data",
        }
    }

    /// Of a reset: `sent`, `received`
    pub const fn direction(&self) -> &'static str {
        if self.0.seq == RESET_SENT {
            "sent"
        } else {
            "received"
        }
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

impl Numbers {
    /// One of them; none if it is not known
    fn at(&self, index: usize) -> Option<u32> {
        self.0
            .get(index)
            .copied()
            .filter(|number| *number != UNKNOWN)
    }

    /// Of an accept or a listener: connections in the accept queue
    pub fn backlog(&self) -> Option<u32> {
        self.at(0)
    }

    /// Of an accept or a listener: the accept queue's limit
    pub fn backlog_max(&self) -> Option<u32> {
        self.at(1)
    }

    /// Of a listener: requests half-open
    pub fn half_open(&self) -> Option<u32> {
        self.at(2)
    }

    /// Of a listener: requests and connections dropped since the last such record
    pub fn dropped(&self) -> Option<u32> {
        self.at(3)
    }

    /// Of a listener: requests whose SYN-ACK was not answered in time, since the last such record
    pub fn unanswered(&self) -> Option<u32> {
        self.at(4)
    }

    /// Of a listener: SYN cookies sent in its network namespace since the last such record
    pub fn cookies_sent(&self) -> Option<u32> {
        self.at(5)
    }

    /// The same with the SYN cookies sent, which the kernel counts elsewhere.
    #[must_use]
    pub fn with_cookies(mut self, sent: Option<u64>) -> Self {
        self.0[5] = sent.map_or(UNKNOWN, |sent| u32::try_from(sent).unwrap_or(UNKNOWN));
        self
    }

    /// Of a retransmission: how many so far
    pub fn count(&self) -> Option<u32> {
        self.at(0)
    }

    /// Of a reset: the kernel's reason, a value of `enum sk_rst_reason`
    pub fn reset_reason(&self) -> Option<u32> {
        self.at(0)
    }
}

impl Totals {
    /// Whether its last transition is to be shown: it was seen, and nobody filters it.
    pub const fn shows_transition(&self) -> bool {
        !self.is_deduced() && !self.hides_transition
    }

    /// The totals alone.
    #[must_use]
    pub const fn without_transition(mut self) -> Self {
        self.hides_transition = true;
        self
    }

    /// The states it was in.
    pub fn passed(&self) -> impl Iterator<Item = State> {
        self.path().iter().map(|step| State(step.state()))
    }

    /// Whether its last transition went unseen and is counted as lost.
    pub const fn is_deduced(&self) -> bool {
        self.path.head.flags & FLAG_DEDUCED != 0
    }

    /// That `accept()` returned it, if no record has told of it.
    fn untold_accept(&self) -> Option<Connection> {
        let head = &self.path.head;
        if head.flags & FLAG_HISTORY == 0 || head.role != ROLE_SERVER || !self.is_accepted() {
            return None;
        }
        let mut record = *head;
        record.kind = KIND_ACCEPT;
        record.mono_ns = self.path.accept_ns;
        record.peer_pid = 0;
        record.flags &= !FLAG_FIRST;
        record.old = tcp::ESTABLISHED;
        record.new = tcp::ESTABLISHED;
        record.span_ns = self
            .accept_wait_us()
            .map_or(SPAN_UNKNOWN, |us| us.saturating_mul(1000));
        Some(Connection(record))
    }

    /// A step of the path that had to wait for the last one.
    fn waited(&self, index: usize) -> Connection {
        let mut record = self.path.head;
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
        (self.path.head.peer_pid != 0).then_some(self.path.head.peer_pid)
    }

    /// From the first step to the end; none if the beginning went unseen
    pub fn duration_us(&self) -> Option<u64> {
        let first = self.path().first()?;
        (first.mono_ns() != 0).then(|| self.end_ns().saturating_sub(first.mono_ns()) / 1000)
    }

    /// From the SYN to ESTABLISHED, as the client saw it, or until that failed
    pub fn connect_us(&self) -> Option<u64> {
        let [syn, rest @ ..] = self.path() else {
            return None;
        };
        if self.path.head.role != ROLE_CLIENT || syn.state() != tcp::SYN_SENT {
            return None;
        }
        let done = rest
            .iter()
            .find(|step| matches!(step.state(), tcp::ESTABLISHED | tcp::CLOSE))?;
        Some(done.mono_ns().saturating_sub(syn.mono_ns()) / 1000)
    }

    /// Time in the accept queue
    pub fn accept_wait_us(&self) -> Option<u64> {
        let queued = self
            .path()
            .iter()
            .find(|step| step.state() == tcp::ESTABLISHED && step.mono_ns() != 0)?;
        (self.path.accept_ns != 0)
            .then(|| self.path.accept_ns.saturating_sub(queued.mono_ns()) / 1000)
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
            let ends = matches!(path[at].state(), tcp::CLOSE | tcp::TIME_WAIT);
            path[at].mono_ns() != 0 && (at + 1 < path.len() || !ends)
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

    /// Why it ended, as far as the path, the socket's error and the RSTs that were seen prove it.
    pub fn reason(&self) -> &'static str {
        let path = self.path();
        let passed = |state| path.iter().any(|step| step.state() == state);
        let both_fins = passed(tcp::FIN_WAIT2)
            || passed(tcp::CLOSING)
            || passed(tcp::LAST_ACK)
            || passed(tcp::TIME_WAIT);
        // Set by `tcp_close` before the state changes, by `tcp_done` after it.
        let by_close = self.is_by_close();
        let from = self.path.head.old;
        let open = matches!(from, tcp::ESTABLISHED | tcp::CLOSE_WAIT);
        // A listener may keep the error of what the socket was before.
        if self.path.head.role == ROLE_LISTENER {
            return "normal";
        }
        match (self.path.err, self.counters.reset) {
            (ECONNREFUSED, _) => "refused",
            (ETIMEDOUT, _) => "timeout",
            (EHOSTUNREACH | ENETUNREACH, _) => "unreachable",
            (ECONNABORTED, _) => "reset_sent",
            (ECONNRESET | EPIPE, _) | (0, RESET_RECEIVED) => "reset_received",
            (0, RESET_SENT) => "reset_sent",
            (0, _) if from == tcp::SYN_SENT => "canceled",
            // The peer's FIN never came.
            (0, _) if self.counters.known & KNOWN_EXPIRED != 0 => "timeout",
            (0, _) if self.ends_without_fin() => "unknown",
            (0, _) if both_fins => "normal",
            // Neither FIN went out: `tcp_close` with linger 0 or unread data aborts.
            (0, _) if by_close && open => "reset_sent",
            // `inet_csk_listen_stop` ends what nobody has accepted.
            (0, _)
                if self.path.head.role == ROLE_SERVER
                    && self.path.accept_ns == 0
                    && self.path.shutdown != SHUTDOWN_BOTH
                    && !self.is_deduced()
                    && open =>
            {
                "listener_closed"
            }
            // `tcp_disconnect`, which resets.
            (0, _) if open && !self.is_deduced() => "reset_sent",
            _ => "unknown",
        }
    }

    /// Whether it ended in a time-wait socket that still waited for the peer's FIN.
    const fn ends_without_fin(&self) -> bool {
        self.is_moved() && self.path.head.new == tcp::CLOSE
    }

    /// Whether it ended by refusal, timeout, reset, or for want of a way
    pub fn is_failure(&self) -> bool {
        matches!(
            self.reason(),
            "refused" | "timeout" | "unreachable" | "reset_received" | "reset_sent"
        )
    }

    /// Who closed it: who sent the first FIN, or the RST that ended it
    pub fn closed_by(&self) -> Option<&'static str> {
        if self.path.head.role == ROLE_LISTENER {
            return None;
        }
        match self.reason() {
            "refused" | "reset_received" => return Some("remote"),
            "canceled" | "reset_sent" | "listener_closed" => return Some("local"),
            _ => {}
        }
        let mut states = self.path().iter().map(|step| step.state());
        if states.clone().any(|state| state == tcp::CLOSING) {
            return Some("both");
        }
        states.find_map(|state| match state {
            tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::TIME_WAIT => Some("local"),
            tcp::CLOSE_WAIT | tcp::LAST_ACK => Some("remote"),
            _ => None,
        })
    }

    /// Whether the handshake was ever complete, or may have been before we came
    pub fn was_established(&self) -> bool {
        self.path.head.flags & FLAG_PARTIAL != 0
            || self
                .path()
                .iter()
                .any(|step| step.state() == tcp::ESTABLISHED)
            || self.path.head.new == tcp::TIME_WAIT
    }

    /// What the kernel has counted; none if it could not be read, or counts nothing (a listener)
    pub fn counters(&self) -> Option<&Counters> {
        (self.counters.known & KNOWN_COUNTERS != 0).then_some(&self.counters)
    }

    /// Payload received in order. The kernel counts the peer's FIN as a byte (`tcp_fin` comes after
    /// `tcp_rcv_nxt_update`); here it is taken off again.
    pub fn rx_bytes(&self) -> Option<u64> {
        let path = self.path();
        let fin = path
            .iter()
            .enumerate()
            .any(|(at, step)| match step.state() {
                tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING => true,
                // A FIN that came after the socket was gone nobody counted.
                tcp::TIME_WAIT => !self.is_moved() || at + 1 < path.len(),
                _ => false,
            });
        self.counters()
            .map(|counters| counters.rx_bytes.saturating_sub(u64::from(fin)))
    }

    /// Least round-trip time of late
    pub fn min_rtt_us(&self) -> Option<u32> {
        self.counters()
            .map(|counters| counters.min_rtt_us)
            .filter(|us| *us != UNKNOWN)
    }

    /// Smoothed round-trip time
    pub fn srtt_us(&self) -> Option<u32> {
        self.counters()
            .map(|counters| counters.srtt_us)
            .filter(|us| *us != 0)
    }

    /// SYN or SYN-ACK sent again
    pub fn syn_retransmits(&self) -> Option<u32> {
        let counters = self.counters()?;
        let never_open = self.path.head.old == tcp::SYN_SENT;
        if never_open {
            return Some(counters.retransmits);
        }
        let seen = self
            .path()
            .iter()
            .any(|step| step.state() == tcp::ESTABLISHED && step.mono_ns() != 0);
        seen.then_some(u32::from(counters.syn_retransmits))
    }

    /// Both initial sequence numbers, ours first
    pub fn isns(&self) -> Option<(u32, u32)> {
        (self.counters.known & KNOWN_ISN != 0)
            .then_some((self.counters.isn, self.counters.peer_isn))
    }

    /// How long the request was half-open: from SYN-ACK to the final ACK
    pub fn handshake_us(&self) -> Option<u32> {
        (self.counters.known & KNOWN_HANDSHAKE != 0).then_some(self.counters.handshake_us)
    }

    /// Window scales, to send and to receive; none unless agreed on
    pub fn wscales(&self) -> Option<(u8, u8)> {
        let counters = self.counters()?;
        (counters.options & OPTION_WSCALE != 0)
            .then_some((counters.wscales & 15, counters.wscales >> 4))
    }

    /// Names of the options agreed on
    pub fn options(&self) -> impl Iterator<Item = &'static str> {
        let options = self.counters().map_or(0, |counters| counters.options);
        [
            (OPTION_SACK, "sack"),
            (OPTION_TIMESTAMPS, "timestamps"),
            (OPTION_WSCALE, "wscale"),
            (OPTION_ECN, "ecn"),
            (OPTION_FASTOPEN, "fastopen"),
        ]
        .into_iter()
        .filter_map(move |(bit, name)| (options & bit != 0).then_some(name))
    }

    /// Name of the congestion control algorithm; it comes from a kernel module
    pub fn congestion(&self) -> Option<String> {
        let counters = self.counters()?;
        let name: [u8; 16] = zerocopy::transmute!(counters.congestion);
        let len = name.iter().position(|byte| *byte == 0)?;
        (len > 0).then(|| String::from_utf8_lossy(&name[..len]).into_owned())
    }

    /// `sk_err` at the last state change
    pub const fn err(&self) -> u32 {
        self.path.err
    }

    /// Whether the process's `close()` made the last state change
    pub fn is_by_close(&self) -> bool {
        self.path.shutdown == SHUTDOWN_BOTH && !self.is_deduced() && !self.is_moved()
    }

    /// RST received (`Some(false)`) or sent (`Some(true)`) before the end
    pub const fn reset_sent(&self) -> Option<bool> {
        match self.counters.reset {
            RESET_SENT => Some(true),
            RESET_RECEIVED => Some(false),
            _ => None,
        }
    }

    /// Whether somebody accepted it
    pub const fn is_accepted(&self) -> bool {
        self.path.accept_ns != 0
    }

    /// Whether its last state change was a time-wait socket's
    const fn is_moved(&self) -> bool {
        self.path.moved != 0
    }

    /// The socket's error as its symbol
    pub const fn errno(&self) -> Option<&'static str> {
        if self.path.head.role == ROLE_LISTENER {
            return None;
        }
        Some(match self.path.err {
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
        self.path.head.mono_ns
    }

    fn path(&self) -> &[Step] {
        let len = usize::from(self.path.path_len).min(self.path.path.len());
        &self.path.path[..len]
    }
}

/// `SHUTDOWN_MASK`, include/net/sock.h
const SHUTDOWN_BOTH: u8 = 3;

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
/// `sk_err` after a timeout
pub const ETIMEDOUT: u32 = 110;
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
