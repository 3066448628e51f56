//! The records that cross the ring.
//!
//! Fixed-width integers and byte arrays only, explicit padding, native byte order except where
//! said. Every record begins with a [`Record`]; those of [`KIND_CLOSE`] and [`KIND_STEPS`] continue
//! as a [`PathRecord`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Changes whenever a byte of any record changes its meaning.
pub const ABI_VERSION: u32 = 1;

/// A state change.
pub const KIND_TRANSITION: u8 = 1;
/// `accept()` returned the connection; `span_ns` is its time in the accept queue, `peer_pid` the
/// listening process.
pub const KIND_ACCEPT: u8 = 2;
/// The last state change together with the connection's totals; `peer_pid` is the process that
/// closed it.
pub const KIND_CLOSE: u8 = 3;
/// A connection that was open when tracing began.
pub const KIND_SOCKET: u8 = 4;
/// Several state changes at once: those that had to wait for the last one.
pub const KIND_STEPS: u8 = 5;

/// Role: not known (first seen half-way).
pub const ROLE_UNKNOWN: u8 = 0;
/// Role: opened by `connect()`.
pub const ROLE_CLIENT: u8 = 1;
/// Role: born of a listener.
pub const ROLE_SERVER: u8 = 2;
/// Role: a listening socket.
pub const ROLE_LISTENER: u8 = 3;

/// Owner: not known.
pub const SOURCE_UNKNOWN: u8 = 0;
/// Owner: the process that called `connect()`.
pub const SOURCE_CONNECT: u8 = 1;
/// Owner: the process that called `listen()`.
pub const SOURCE_LISTEN: u8 = 2;
/// Owner: the listener's owner, until somebody accepts.
pub const SOURCE_LISTENER: u8 = 3;
/// Owner: the process that accepted.
pub const SOURCE_ACCEPT: u8 = 4;
/// Owner: held the socket's file when tracing began.
pub const SOURCE_SNAPSHOT: u8 = 5;

/// Set in [`Record::flags`]: first record of this connection.
pub const FLAG_FIRST: u8 = 1;
/// Set in [`Record::flags`]: open before tracing began.
pub const FLAG_PARTIAL: u8 = 2;
/// Set in [`Record::flags`]: an IPv6 socket with IPv4-mapped addresses.
pub const FLAG_MAPPED: u8 = 4;
/// Set in [`Record::flags`]: the close was deduced from the socket's destruction; its last
/// transition went unseen and is counted as lost.
pub const FLAG_DEDUCED: u8 = 8;

/// [`Record::span_ns`] of a span whose beginning went unseen.
pub const SPAN_UNKNOWN: u64 = u64::MAX;

/// State changes kept for each socket. Between two visits to `CLOSE` the state graph of
/// `net/ipv4/tcp.c` leads back to no state; `close()` after `shutdown()` reports the present one
/// once more. The longest path, a simultaneous open and a simultaneous close, has eight.
pub const PATH_LEN: usize = 8;

/// A process that owns a socket. `tgid` 0: not known.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Owner {
    /// cgroup v2 id at the moment of owning; 0: not known
    pub cgroup: u64,
    /// Thread group in the initial PID namespace
    pub tgid: u32,
    /// Real user id in the initial user namespace
    pub uid: u32,
    /// Name of the thread-group leader, NUL-padded
    pub comm: [u8; 16],
}

/// What every record says of a connection.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Record {
    /// `CLOCK_MONOTONIC`
    pub mono_ns: u64,
    /// Connection id: the socket cookie where the kernel gives it
    pub conn: u64,
    /// Time in the old state, or in the accept queue; [`SPAN_UNKNOWN`] if its start went unseen
    pub span_ns: u64,
    /// Owner at this moment
    pub owner: Owner,
    /// Sixteen bytes in network order, as two words of memory; IPv4 in the first four bytes
    pub laddr: [u64; 2],
    /// Sixteen bytes in network order, as two words of memory; IPv4 in the first four bytes
    pub raddr: [u64; 2],
    /// Network namespace inode
    pub netns: u32,
    /// See the record kinds; 0: not known
    pub peer_pid: u32,
    /// Local port, 0: none
    pub lport: u16,
    /// Remote port, 0: none
    pub rport: u16,
    /// `KIND_*`
    pub kind: u8,
    /// State before; for [`KIND_SOCKET`] the present state
    pub old: u8,
    /// State after
    pub new: u8,
    /// `FLAG_*`
    pub flags: u8,
    /// 4 or 6
    pub family: u8,
    /// `ROLE_*`
    pub role: u8,
    /// `SOURCE_*`
    pub source: u8,
    /// Place of this state change in the connection's path, from 0
    pub seq: u8,
    /// Zero
    pub reserved: u32,
}

impl Owner {
    /// Nobody known.
    pub const NONE: Self = Self {
        cgroup: 0,
        tgid: 0,
        uid: 0,
        comm: [0; 16],
    };
}

impl Record {
    /// All zero.
    pub const EMPTY: Self = Self {
        mono_ns: 0,
        conn: 0,
        span_ns: 0,
        owner: Owner::NONE,
        laddr: [0; 2],
        raddr: [0; 2],
        netns: 0,
        peer_pid: 0,
        lport: 0,
        rport: 0,
        kind: 0,
        old: 0,
        new: 0,
        flags: 0,
        family: 0,
        role: 0,
        source: 0,
        seq: 0,
        reserved: 0,
    };
}

/// One state change in a path: when, and into which state.
///
/// Packed as `mono_ns << 4 | state`: 60 bits of nanoseconds are 36 years of uptime.
#[derive(
    Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Eq,
)]
#[repr(transparent)]
pub struct Step(pub u64);

impl Step {
    /// Packs a state change.
    #[inline]
    pub const fn new(mono_ns: u64, state: u8) -> Self {
        Self(mono_ns << 4 | (state & 15) as u64)
    }

    /// `CLOCK_MONOTONIC`, ns
    #[inline]
    pub const fn mono_ns(self) -> u64 {
        self.0 >> 4
    }

    /// The state entered
    #[inline]
    pub const fn state(self) -> u8 {
        (self.0 & 15) as u8
    }
}

/// [`KIND_CLOSE`], [`KIND_STEPS`]: a state change, those that waited for it, and the connection's
/// whole path; at a close also its totals.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct PathRecord {
    /// The newest state change
    pub head: Record,
    /// Every state entered, oldest first
    pub path: [Step; PATH_LEN],
    /// When `accept()` returned it; 0: it did not, or that went unseen
    pub accept_ns: u64,
    /// `sk_err` at the end: an errno, or 0
    pub err: u32,
    /// Steps of `path` in use
    pub path_len: u8,
    /// `sk_shutdown` at the end: 1 receive, 2 send
    pub shutdown: u8,
    /// First step of `path` that no record has told of yet; `path_len` if all are told
    pub untold: u8,
    /// Zero
    pub reserved: u8,
}

const _: () = assert!(size_of::<Owner>() == 32);
const _: () = assert!(size_of::<Record>() == 112);
const _: () = assert!(size_of::<PathRecord>() == 192);
