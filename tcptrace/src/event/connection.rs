//! What every record says of its connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tcptrace_common::record::{
    FLAG_FIRST, FLAG_INFERRED, FLAG_MAPPED, FLAG_PARTIAL, FLAG_ROLE_INFERRED, Record, SPAN_UNKNOWN,
};
use zerocopy::IntoBytes as _;

use super::{OwnerSource, Role, State};

/// What every record says of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection(pub(super) Record);

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
                (record.role, record.family, record.source, record.process),
                record.flags & (FLAG_MAPPED | FLAG_ROLE_INFERRED),
            )
        };
        parts(a) == parts(b)
            && a.laddr == b.laddr
            && a.raddr == b.raddr
            && a.owner.as_bytes() == b.owner.as_bytes()
    }

    /// The owner's id, and which of the processes that had it is meant; none if that is not known
    pub fn process(&self) -> Option<(u32, u32)> {
        let pid = self.pid()?;
        (self.0.process != 0).then_some((pid, self.0.process))
    }

    /// What the socket is in it
    pub const fn role(&self) -> Role {
        Role::from_number(self.0.role)
    }

    /// Whether the role is inferred from where others listened at start
    pub const fn is_role_inferred(&self) -> bool {
        self.0.flags & FLAG_ROLE_INFERRED != 0
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
    pub const fn owner_source(&self) -> OwnerSource {
        OwnerSource::from_number(self.0.source)
    }

    /// Whether this is the first record of the connection.
    pub const fn is_first(&self) -> bool {
        self.0.flags & FLAG_FIRST != 0
    }

    /// Whether it was open before tracing began.
    pub const fn is_partial(&self) -> bool {
        self.0.flags & FLAG_PARTIAL != 0
    }

    /// State before; of a record without a change, the state at that moment
    pub(super) const fn oldstate(&self) -> State {
        State(self.0.old)
    }

    /// State after
    pub(super) const fn newstate(&self) -> State {
        State(self.0.new)
    }

    /// The time span of the record; none if its beginning was missed
    pub(super) fn span_us(&self) -> Option<u64> {
        (self.0.span_ns != SPAN_UNKNOWN).then_some(self.0.span_ns / 1000)
    }

    /// Whether what the record reports was inferred, not seen
    pub(super) const fn is_inferred(&self) -> bool {
        self.0.flags & FLAG_INFERRED != 0
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
