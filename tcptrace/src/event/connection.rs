//! What every record says of its connection, and the numbers that some bring along.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::record::{
    FLAG_FIRST, FLAG_INFERRED, FLAG_MAPPED, FLAG_NO_FASTOPEN, FLAG_PARTIAL, RESET_SENT,
    RETRANSMIT_SYN, RETRANSMIT_SYNACK, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, Record,
    SOURCE_ACCEPT, SOURCE_CONNECT, SOURCE_LISTEN, SOURCE_LISTENER, SOURCE_SNAPSHOT, SPAN_UNKNOWN,
    UNKNOWN,
};
use zerocopy::IntoBytes as _;

use super::State;

/// What every record says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection(pub(super) Record);

/// Numbers that a record brings along; what they are, its kind says.
#[derive(Clone, Copy, Debug)]
pub struct Numbers(pub(super) [u32; 6]);

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

    /// Whether it is a server's: born of a listener.
    pub const fn is_server(&self) -> bool {
        self.0.role == ROLE_SERVER
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
