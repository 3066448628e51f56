//! What the user asked for, in the object's read-only data: a filter that is off costs nothing,
//! because the verifier removes it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set in [`Config::families`]: IPv4 connections, IPv4-mapped ones included.
pub const FAMILY_V4: u8 = 1;
/// Set in [`Config::families`]: IPv6 connections.
pub const FAMILY_V6: u8 = 2;

/// Set in [`Config::emit`]: transitions.
pub const EMIT_TRANSITION: u8 = 1;
/// Set in [`Config::emit`]: `accept()` returned a connection.
pub const EMIT_ACCEPT: u8 = 2;
/// Set in [`Config::emit`]: the closing totals.
pub const EMIT_CLOSE: u8 = 4;
/// Set in [`Config::emit`]: segments sent again.
pub const EMIT_RETRANSMIT: u8 = 8;
/// Set in [`Config::emit`]: RST sent or received.
pub const EMIT_RESET: u8 = 16;
/// Set in [`Config::emit`]: what goes wrong at listeners.
pub const EMIT_LISTENER: u8 = 32;
/// Set in [`Config::emit`]: another process has become the owner.
pub const EMIT_OWNER: u8 = 64;

/// Every role, in [`Config::roles`].
pub const ROLES_ALL: u8 = 15;

/// Read-only configuration of the kernel programs.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// Not 0: only clients that took at least this long to connect, and servers' connections that
    /// waited at least this long for `accept()`.
    pub slower_ns: u64,
    /// A wake-up is forced when this many bytes wait in the ring; 0: the reader's timer suffices.
    pub wake_bytes: u32,
    /// States of [`AUTOMATON_COMM`] from this one on accept.
    pub comm_accepts: u16,
    /// States of [`AUTOMATON_EXE`] from this one on accept.
    pub exe_accepts: u16,
    /// States of [`AUTOMATON_CONTAINER`] from this one on accept.
    pub container_accepts: u16,
    /// `FAMILY_*` of the connections to show.
    pub families: u8,
    /// `EMIT_*` of the records to send.
    pub emit: u8,
    /// 1: only connections of certain owners: by any of the filters below that look at processes.
    pub by_pid: u8,
    /// 1: only of processes in the `PIDS` map.
    pub in_pids: u8,
    /// 1: also of the processes that those fork.
    pub follow: u8,
    /// 1: only of processes whose name the automaton [`AUTOMATON_COMM`] accepts.
    pub by_comm: u8,
    /// 1: only of processes whose executable's path [`AUTOMATON_EXE`] accepts.
    pub by_exe: u8,
    /// 1: only of processes in a cgroup whose name [`AUTOMATON_CONTAINER`] accepts.
    pub by_container: u8,
    /// `LISTED_*`: by real user id, in the `WANTED` map.
    pub by_uid: u8,
    /// `LISTED_*`: by cgroup id, in the `WANTED` map; cgroups below it are in it.
    pub by_cgroup: u8,
    /// `LISTED_*`: by network namespace, in the `WANTED` map.
    pub by_netns: u8,
    /// `LISTED_*`: by local address, in the `NETWORKS` map.
    pub by_laddr: u8,
    /// `LISTED_*`: by remote address, in the `NETWORKS` map.
    pub by_raddr: u8,
    /// `LISTED_*`: by the address at either end, in the `NETWORKS` map.
    pub by_addr: u8,
    /// State of [`AUTOMATON_COMM`] before the first byte.
    pub comm_start: u8,
    /// State of [`AUTOMATON_EXE`] before the first byte.
    pub exe_start: u8,
    /// State of [`AUTOMATON_CONTAINER`] before the first byte.
    pub container_start: u8,
    /// 1: only connections whose local port is set in the `PORTS` bitmap, row 0.
    pub by_lport: u8,
    /// 1: only connections whose remote port is set in the `PORTS` bitmap, row 1.
    pub by_rport: u8,
    /// 1: only connections with either port set in the `PORTS` bitmap, row 2, and neither in row 3.
    pub by_port: u8,
    /// 1: the kernel lets tracing programs call `bpf_get_socket_cookie` (5.12 and later).
    pub cookie_helper: u8,
    /// 1: `tcp:tcp_send_reset` gives its reason, and tells of time-wait sockets as well.
    pub reset_reason: u8,
    /// Roles to show, a bit each: `1 << ROLE_*`.
    pub roles: u8,
    /// 1: only connections that failed: nothing is sent of a connection before its end, and which of
    /// those have failed the agent decides.
    pub failed: u8,
    /// 1: `tcp:tcp_retransmit_skb` tells of attempts that failed, too, and whether they did.
    pub retransmit_err: u8,
    /// `PIN_*`: programs that must themselves keep their task from being preempted, and can.
    pub pinned: u8,
    /// With `by_pid`, the thread group in the `PIDS` map if there is but one, or 0.
    pub only_pid: u32,
    /// 1: the kernel gives programs the running task as a typed pointer (5.11 and later).
    pub typed_task: u8,
    /// 1: the kernel lets programs exchange words with other CPUs (5.12 and later).
    pub exchanges: u8,
    /// 1: connections that are open at start are told.
    pub lists: u8,
    /// 1: `kfunc::RDONLY_CAST` stands for a function of this kernel, which takes any address (6.17 and later).
    pub casts: u8,
    /// 1: command lines are wanted.
    pub args: u8,
    /// 1: the kernel describes what it takes to say what a process is.
    pub processes: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

impl Config {
    /// The default: everything, from a kernel with the cookie helper.
    pub const DEFAULT: Self = Self {
        slower_ns: 0,
        wake_bytes: 0,
        families: FAMILY_V4 | FAMILY_V6,
        emit: EMIT_TRANSITION | EMIT_ACCEPT | EMIT_CLOSE,
        by_pid: 0,
        in_pids: 0,
        follow: 0,
        by_comm: 0,
        by_exe: 0,
        by_container: 0,
        by_uid: 0,
        by_cgroup: 0,
        by_netns: 0,
        by_laddr: 0,
        by_raddr: 0,
        by_addr: 0,
        comm_start: 0,
        exe_start: 0,
        container_start: 0,
        comm_accepts: 0,
        exe_accepts: 0,
        container_accepts: 0,
        by_lport: 0,
        by_rport: 0,
        by_port: 0,
        cookie_helper: 1,
        reset_reason: 0,
        roles: ROLES_ALL,
        failed: 0,
        retransmit_err: 0,
        pinned: 0,
        only_pid: 0,
        typed_task: 1,
        exchanges: 1,
        lists: 1,
        casts: 0,
        args: 0,
        processes: 1,
        reserved: [0; 2],
    };
}

/// Those that a tracepoint calls.
pub const PIN_TRACEPOINTS: u8 = 1;
/// Those that a trampoline calls.
pub const PIN_TRAMPOLINES: u8 = 2;

/// The ends of time-wait sockets are told at once, by fentry or kprobe.
pub const TIME_WAIT_AT_ONCE: u64 = 1;
/// They are told by their timers, and by looking.
pub const TIME_WAIT_BY_TIMER: u64 = 2;

/// Time-wait sockets that one run of the program `poll` looks at.
pub const POLLS_PER_RUN: u64 = 8;
/// CPUs whose last stops one run of it looks at.
pub const STOPS_PER_RUN: u32 = 4;
/// First argument of `poll`: to look at the list.
pub const POLL_QUEUED: u64 = 0;
/// First argument of `poll`: to look at the last stops; the second is the first CPU.
pub const POLL_STOPS: u64 = 1;
/// Words of the `TIME_WAIT` map in front of those of the first CPU, and for each.
pub const TIME_WAIT_WORDS: u32 = 8;

/// Words of a record in the `SOCKS` map.
pub const SOCK_WORDS: usize = 43;
/// Words of a record in the `TIME_WAITS` map.
pub const TIME_WAIT_RECORD_WORDS: usize = 15;
/// Words of a record in `BACKLOGS`.
pub const BACKLOG_WORDS: usize = 19;
/// The records in the `SOCKS` map: an argument of `find_stale` and `report_stale`.
pub const STALE_SOCKETS: u64 = 0;
/// The records in the `TIME_WAITS` map of which nobody has seen that a timer stopped: an argument of
/// `find_stale` and `report_stale`.
pub const RUNNING_TIME_WAITS: u64 = 1;
/// The others in the `TIME_WAITS` map: an argument of `find_stale` and `report_stale`.
pub const STOPPED_TIME_WAITS: u64 = 2;
/// All in the `TIME_WAITS` map: an argument of `find_stale` and `report_stale`.
pub const ALL_TIME_WAITS: u64 = 3;
/// Records that one run of the program `find_stale` looks at. The verifier follows each anew.
pub const FINDS_PER_RUN: usize = 4;

/// Words in one row of the `PORTS` bitmap: one bit for each of 65,536 ports.
pub const PORT_WORDS: u32 = 1024;
/// Row of local ports in the `PORTS` bitmap.
pub const PORTS_LOCAL: u32 = 0;
/// Row of remote ports in the `PORTS` bitmap.
pub const PORTS_REMOTE: u32 = 1;
/// Row of ports wanted at either end in the `PORTS` bitmap.
pub const PORTS_ANY: u32 = 2;
/// Row of ports wanted at neither end in the `PORTS` bitmap.
pub const PORTS_NONE: u32 = 3;
/// Rows in the `PORTS` bitmap.
pub const PORT_ROWS: u32 = 4;

/// Value in the `PIDS` map: asked for by its id.
pub const PID_ASKED: u8 = 1;
/// Value in the `PIDS` map: forked by a process that was asked for, or started by the agent.
pub const PID_FOLLOWED: u8 = 2;

/// A filter by list that is off.
pub const LISTED_OFF: u8 = 0;
/// A filter by list: only what is listed as wanted.
pub const LISTED_ONLY: u8 = 1;
/// A filter by list: all but what is listed as unwanted.
pub const LISTED_REST: u8 = 2;

/// First word of a key in the `WANTED` map: real user ids.
pub const WANTED_UID: u64 = 0;
/// First word of a key in the `WANTED` map: cgroup ids.
pub const WANTED_CGROUP: u64 = 1;
/// First word of a key in the `WANTED` map: network namespaces.
pub const WANTED_NETNS: u64 = 2;

/// In the first word of a key in the `NETWORKS` map, above the family: local addresses.
pub const NETWORKS_LOCAL: u32 = 0;
/// Likewise: remote addresses.
pub const NETWORKS_REMOTE: u32 = 1;
/// Likewise: addresses at either end.
pub const NETWORKS_ANY: u32 = 2;

/// Index into the `AUTOMATA` map: names of processes.
pub const AUTOMATON_COMM: u32 = 0;
/// Index into the `AUTOMATA` map: paths of executables.
pub const AUTOMATON_EXE: u32 = 1;
/// Index into the `AUTOMATA` map: names of cgroups.
pub const AUTOMATON_CONTAINER: u32 = 2;
/// Entries of the `AUTOMATA` map.
pub const AUTOMATA: u32 = 3;
/// Bytes of an entry of the `AUTOMATA` map: the next state at `state << 8 | byte`.
pub const AUTOMATON_BYTES: usize = 1 << 16;
