//! The records that cross the ring.
//!
//! Fixed-width integers and byte arrays only, explicit padding, native byte order except where
//! said. Every record begins with a [`Record`]; what follows it is said at its kind.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Changes whenever a byte of any record changes its meaning.
pub const ABI_VERSION: u32 = 4;

/// A state change.
pub const KIND_TRANSITION: u8 = 1;
/// `accept()` returned the connection; `span_ns` is its time in the accept queue, `peer_pid` the
/// listening process. A [`DetailRecord`]: accept queue, its limit ([`UNKNOWN`] if not known).
pub const KIND_ACCEPT: u8 = 2;
/// The last state change together with the connection's totals; `peer_pid` is the process that
/// closed it. A [`CloseRecord`].
pub const KIND_CLOSE: u8 = 3;
/// A connection that was open when tracing began.
pub const KIND_SOCKET: u8 = 4;
/// Several state changes at once: those that had to wait for the last one. A [`PathRecord`].
pub const KIND_STEPS: u8 = 5;
/// A segment was sent again; `seq` is a `RETRANSMIT_*`. A [`DetailRecord`]: how many so far.
pub const KIND_RETRANSMIT: u8 = 6;
/// RST sent or received; `seq` is a `RESET_*`. A [`DetailRecord`]: the kernel's `sk_rst_reason`, or
/// [`UNKNOWN`].
pub const KIND_RESET: u8 = 7;
/// What goes wrong at a listener; `span_ns` is the time since it last accepted. A [`ListenerRecord`]:
/// accept queue, its limit, requests half-open, and since the last such record requests or
/// connections dropped, and requests whose SYN-ACK was not answered in time.
pub const KIND_LISTENER: u8 = 8;

/// With `--slower-than`, the limit has passed and the connection still waits; `seq` is a `SLOW_*`, `span_ns`
/// how long it has waited. A [`DetailRecord`]: of [`SLOW_CONNECT`] the SYNs sent again; of [`SLOW_ACCEPT`] the
/// accept queue and its limit.
pub const KIND_SLOW: u8 = 9;

/// [`KIND_SLOW`]: for the SYN-ACK.
pub const SLOW_CONNECT: u8 = 1;
/// [`KIND_SLOW`]: for `accept()`.
pub const SLOW_ACCEPT: u8 = 2;

/// A process that comes to own a connection, before the first record that names it. A [`ProcessRecord`].
pub const KIND_PROCESS: u8 = 10;

/// Another process has become the owner. A [`DetailRecord`]: the former owner's id (0: there was none), a `HOW_*`,
/// and the former owner's name in four words of memory.
pub const KIND_OWNER: u8 = 11;

/// A connection that is still open as the trace ends; `span_ns` is the time in its state. A [`DetailRecord`]: its
/// age in µs, low word first, if it began during the trace.
pub const KIND_OPEN: u8 = 12;

/// [`KIND_OWNER`]: the new owner is a child of the former one, or a child's child.
pub const HOW_FORK: u32 = 1;
/// [`KIND_OWNER`]: the new owner was given a descriptor.
pub const HOW_PASSED: u32 = 2;
/// [`KIND_OWNER`]: how is not known.
pub const HOW_UNKNOWN: u32 = 0;

/// [`KIND_RETRANSMIT`]: a client's SYN.
pub const RETRANSMIT_SYN: u8 = 1;
/// [`KIND_RETRANSMIT`]: a server's SYN-ACK.
pub const RETRANSMIT_SYNACK: u8 = 2;
/// [`KIND_RETRANSMIT`]: anything later.
pub const RETRANSMIT_DATA: u8 = 3;

/// [`KIND_RESET`], [`Counters::reset`]: RST received.
pub const RESET_RECEIVED: u8 = 1;
/// [`KIND_RESET`], [`Counters::reset`]: RST sent.
pub const RESET_SENT: u8 = 2;
/// [`Counters::reset`]: RST received, or sent in answer to data that nobody can read any more.
pub const RESET_EITHER: u8 = 3;

/// A number that is not known.
pub const UNKNOWN: u32 = u32::MAX;

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
/// Owner: holds the socket since another process that did does so no more.
pub const SOURCE_HANDOVER: u8 = 6;

/// Set in [`Record::flags`]: first record of this connection.
pub const FLAG_FIRST: u8 = 1;
/// Set in [`Record::flags`]: open before tracing began.
pub const FLAG_PARTIAL: u8 = 2;
/// Set in [`Record::flags`]: an IPv6 socket with IPv4-mapped addresses.
pub const FLAG_MAPPED: u8 = 4;
/// Set in [`Record::flags`]: the close was deduced from the socket's destruction, or from the kernel's
/// memory of it; its last transition went unseen and is counted as lost, and when it was is not known.
pub const FLAG_DEDUCED: u8 = 8;
/// Set in [`Record::flags`]: the kernel gave no direct sight of this state change, and its time is
/// when it was found.
pub const FLAG_INFERRED: u8 = 16;

/// Set in [`Record::flags`]: its listener does not take Fast Open, so that a connection is made by
/// the handshake's last segment only.
pub const FLAG_NO_FASTOPEN: u8 = 32;

/// Set in [`Record::flags`] of a [`KIND_CLOSE`]: nothing was told of the connection before, `accept()`
/// included.
pub const FLAG_HISTORY: u8 = 64;

/// Set in [`Record::flags`]: [`Record::role`] is inferred, of a connection that was open before tracing began.
pub const FLAG_ROLE_INFERRED: u8 = 128;

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
    /// Which of the processes that had the owner's id it is, as in a [`ProcessRecord`]; 0: not known
    pub process: u32,
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
        process: 0,
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
    /// `sk_err` at the end: an errno, or 0 if there is none of this life
    pub err: u32,
    /// Steps of `path` in use
    pub path_len: u8,
    /// `sk_shutdown` at the end: 1 receive, 2 send
    pub shutdown: u8,
    /// First step of `path` that no record has told of yet; `path_len` if all are told
    pub untold: u8,
    /// 1: the last step was made by a time-wait socket, after the socket itself was gone
    pub moved: u8,
    /// With `has_opener`, the owner of the steps before `accept_ns`
    pub opener: Owner,
    /// 1, `accepted`: the accept queue of the listener when it was accepted, and its limit;
    /// [`UNKNOWN`] if not known
    pub backlog: [u32; 2],
    /// `SOURCE_*` of `opener`
    pub opener_source: u8,
    /// 0: all steps are told with the owner in `head`
    pub has_opener: u8,
    /// 1: no record has told yet that it was accepted
    pub accepted: u8,
    /// The step that makes the connection's first record
    pub first: u8,
    /// The state before `path[0]`; 0: not said, as in recordings of earlier versions
    pub origin: u8,
    /// 1: no hook saw who accepted it; a state change at `accept_ns` proved it
    pub overlooked: u8,
    /// Zero
    pub reserved: [u8; 2],
}

/// Set in [`Counters::known`]: what the kernel counts.
pub const KNOWN_COUNTERS: u8 = 1;
/// Set in [`Counters::known`]: both initial sequence numbers.
pub const KNOWN_ISN: u8 = 2;
/// Set in [`Counters::known`]: the time a request was half-open.
pub const KNOWN_HANDSHAKE: u8 = 4;
/// Set in [`Counters::known`]: the peer's FIN did not come within `tcp_fin_timeout`.
pub const KNOWN_EXPIRED: u8 = 8;
/// Set in [`Counters::known`]: it went from `FIN_WAIT2` to `CLOSE`, and the peer's FIN had not come.
pub const KNOWN_NO_FIN: u8 = 16;

/// Set in [`Counters::end`]: what follows was read as the socket left its last state.
pub const END_READ: u8 = 1;
/// Set in [`Counters::end`]: whoever connected or accepted had not closed it, or was just doing so.
pub const END_HELD: u8 = 2;
/// Set in [`Counters::end`]: it was in the accept queue of a listener that listened no more.
pub const END_QUEUED: u8 = 4;
/// Set in [`Counters::end`]: its error is the one that `sk_err_soft` held.
pub const END_SOFT: u8 = 8;
/// Set in [`Counters::end`]: all that was sent was acknowledged, our FIN included.
pub const END_ACKED: u8 = 16;
/// Set in [`Counters::end`]: both directions were shut before its life began.
pub const END_SHUT_BEFORE: u8 = 32;
/// Set in [`Counters::end`]: the socket had an error before its life began.
pub const END_ERROR_BEFORE: u8 = 64;

/// [`Counters::abort`]: `close()` with linger 0.
pub const ABORT_LINGER: u8 = 1;
/// [`Counters::abort`]: `close()` with data unread.
pub const ABORT_UNREAD: u8 = 2;
/// [`Counters::abort`]: a call that left the socket open: `connect(AF_UNSPEC)`.
pub const ABORT_DISCONNECT: u8 = 3;
/// [`Counters::abort`]: data came when only a time-wait socket was left.
pub const ABORT_LATE_DATA: u8 = 4;

/// [`Counters::act`]: `close()` of the last descriptor.
pub const ACT_CLOSE: u8 = 1;
/// [`Counters::act`]: `shutdown()`.
pub const ACT_SHUTDOWN: u8 = 2;
/// [`Counters::act`]: it exited.
pub const ACT_EXIT: u8 = 3;
/// [`Counters::act`], with the number of a signal below it: the signal ended it.
pub const ACT_KILLED: u8 = 128;

/// Set in [`Counters::options`]: selective acknowledgements.
pub const OPTION_SACK: u8 = 1;
/// Set in [`Counters::options`]: timestamps.
pub const OPTION_TIMESTAMPS: u8 = 2;
/// Set in [`Counters::options`]: window scaling.
pub const OPTION_WSCALE: u8 = 4;
/// Set in [`Counters::options`]: explicit congestion notification.
pub const OPTION_ECN: u8 = 8;
/// Set in [`Counters::options`]: data in the SYN, acknowledged (Fast Open).
pub const OPTION_FASTOPEN: u8 = 16;

/// What the kernel has counted, as `TCP_INFO` tells it (`tcp_get_info`, net/ipv4/tcp.c).
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct Counters {
    /// Payload sent, retransmissions included
    pub tx_bytes: u64,
    /// Payload received in order
    pub rx_bytes: u64,
    /// Payload sent again
    pub retrans_bytes: u64,
    /// Name of the congestion control algorithm, NUL-padded
    pub congestion: [u64; 2],
    /// Segments sent
    pub tx_segs: u32,
    /// Segments received
    pub rx_segs: u32,
    /// Segments sent again
    pub retransmits: u32,
    /// Smoothed round-trip time; 0: none measured
    pub srtt_us: u32,
    /// Least round-trip time of late; [`UNKNOWN`]: none measured
    pub min_rtt_us: u32,
    /// Largest segment we send
    pub mss_bytes: u32,
    /// Congestion window, segments
    pub cwnd: u32,
    /// Our initial sequence number
    pub isn: u32,
    /// The peer's initial sequence number
    pub peer_isn: u32,
    /// From SYN-ACK to the final ACK, as the server saw it
    pub handshake_us: u32,
    /// Window scales: ours to send in the low four bits, to receive in the high four
    pub wscales: u8,
    /// `OPTION_*` agreed on
    pub options: u8,
    /// SYN or SYN-ACK sent again
    pub syn_retransmits: u8,
    /// `KNOWN_*`
    pub known: u8,
    /// `RESET_*` of the first RST that the socket did not outlive; 0: none
    pub reset: u8,
    /// `END_*`
    pub end: u8,
    /// `ABORT_*`: how our side aborts it, if it does; 0: not known
    pub abort: u8,
    /// `ACT_*`: by what the process that closed it did so; 0: not known
    pub act: u8,
}

impl Counters {
    /// Nothing counted.
    pub const NONE: Self = Self {
        tx_bytes: 0,
        rx_bytes: 0,
        retrans_bytes: 0,
        congestion: [0; 2],
        tx_segs: 0,
        rx_segs: 0,
        retransmits: 0,
        srtt_us: 0,
        min_rtt_us: 0,
        mss_bytes: 0,
        cwnd: 0,
        isn: 0,
        peer_isn: 0,
        handshake_us: 0,
        wscales: 0,
        options: 0,
        syn_retransmits: 0,
        known: 0,
        reset: 0,
        end: 0,
        abort: 0,
        act: 0,
    };
}

/// [`KIND_CLOSE`]: the path and what the kernel has counted.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct CloseRecord {
    /// The last state change and the path
    pub path: PathRecord,
    /// The counters at that moment
    pub counters: Counters,
}

/// A record with numbers, which its kind explains.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct DetailRecord {
    /// What it is about
    pub head: Record,
    /// See the kind; [`UNKNOWN`] if not known
    pub numbers: [u32; 6],
}

/// Where requests come from that stay half-open.
#[derive(
    Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Eq,
)]
#[repr(C)]
pub struct Origin {
    /// The first bytes of the addresses, in network order, as a word of memory: three of IPv4, six of IPv6
    pub prefix: u64,
    /// Requests at least; 0: none
    pub count: u32,
    /// 4 or 6
    pub family: u32,
}

/// So many origins are kept for each listener.
pub const ORIGINS: usize = 8;

/// [`KIND_LISTENER`]: numbers, and where the requests came from whose SYN-ACK was not answered in time.
#[derive(Clone, Copy, Debug, Default, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ListenerRecord {
    /// What it is about, and its numbers
    pub noted: DetailRecord,
    /// In no order
    pub origins: [Origin; ORIGINS],
}

/// Room for a path in a [`ProcessRecord`].
pub const PROCESS_PATH_MAX: usize = 512;
/// Room for command lines behind a [`ProcessRecord`].
pub const PROCESS_ARGS_MAX: usize = 512;

/// [`KIND_PROCESS`]: what a process is. In `head` only its id, name, user and `process` are filled in. With
/// [`Config::args`](crate::config::Config::args), [`PROCESS_ARGS_MAX`] bytes of its command line follow.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
#[repr(C)]
pub struct ProcessRecord {
    /// Which process
    pub head: Record,
    /// When it was started (`CLOCK_BOOTTIME`, ns)
    pub start_ns: u64,
    /// Its parent
    pub ppid: u32,
    /// Where in `exe` the path begins, which ends with it; [`PROCESS_PATH_MAX`]: not known
    pub exe_at: u16,
    /// Where in `cgroup` the path begins, which ends with it; the beginning of a long one is missing
    pub cgroup_at: u16,
    /// Bytes of the command line
    pub args_len: u16,
    /// Zero
    pub reserved: [u16; 3],
    /// Path of its executable
    pub exe: [u8; PROCESS_PATH_MAX],
    /// Path of its cgroup
    pub cgroup: [u8; PROCESS_PATH_MAX],
}

const _: () = assert!(size_of::<ProcessRecord>() == 112 + 24 + 2 * PROCESS_PATH_MAX);
const _: () = assert!(size_of::<Owner>() == 32);
const _: () = assert!(size_of::<Record>() == 112);
const _: () = assert!(size_of::<PathRecord>() == 240);
const _: () = assert!(size_of::<Counters>() == 88);
const _: () = assert!(size_of::<CloseRecord>() == 328);
const _: () = assert!(size_of::<DetailRecord>() == 136);
const _: () = assert!(size_of::<ListenerRecord>() == 264);
