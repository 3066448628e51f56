//! The end of a connection: how long everything took, and what the kernel counted. Why it ended is in
//! `ending`.

use tcptrace_common::{
    record::{
        Counters, END_SHUT_BEFORE, FLAG_DEDUCED, FLAG_PARTIAL, KNOWN_COUNTERS, KNOWN_HANDSHAKE,
        KNOWN_ISN, KNOWN_NO_FIN, OPTION_ECN, OPTION_FASTOPEN, OPTION_SACK, OPTION_TIMESTAMPS,
        OPTION_WSCALE, PATH_LEN, PathRecord, RESET_EITHER, RESET_RECEIVED, RESET_SENT, Step,
        UNKNOWN,
    },
    tcp,
};
use zerocopy::IntoBytes as _;

use super::{Connection, Direction, Reason, Role, State, TcpOption, evidence::Ending, path};

/// The end of a connection, with what is known of its life.
#[derive(Clone, Copy, Debug)]
pub struct Close {
    pub(super) head: Connection,
    pub(super) path: PathRecord,
    pub(super) counters: Counters,
    pub(super) ending: Ending,
}

impl Close {
    pub(super) fn new(path: PathRecord, counters: Counters) -> Self {
        let mut close = Self {
            head: Connection(path.head),
            path,
            counters,
            ending: Ending {
                reason: Reason::Unknown,
                by_error: false,
                cause: None,
            },
        };
        close.ending = close.find_ending();
        close
    }

    /// The connection, with its last owner
    pub const fn connection(&self) -> &Connection {
        &self.head
    }

    /// Whether its time is not certain: when it was found
    pub const fn is_inferred(&self) -> bool {
        self.head.is_inferred()
    }

    /// The states it was in.
    pub fn passed(&self) -> impl Iterator<Item = State> {
        self.path().iter().map(|step| State(step.state()))
    }

    /// The states it entered while it was watched, in their order
    pub fn entered(&self) -> impl Iterator<Item = State> {
        let seen = self.path().iter().filter(|step| step.mono_ns() != 0);
        seen.map(|step| State(step.state()))
    }

    /// Whether its last transition was missed and is counted as lost.
    pub const fn is_deduced(&self) -> bool {
        self.path.head.flags & FLAG_DEDUCED != 0
    }

    /// The process that closed it
    pub fn closer_pid(&self) -> Option<u32> {
        (self.path.head.peer_pid != 0).then_some(self.path.head.peer_pid)
    }

    /// From the first step to the end; none if either was missed
    pub fn duration_us(&self) -> Option<u64> {
        let first = self.path().first()?;
        (first.mono_ns() != 0 && !self.is_deduced())
            .then(|| self.end_ns().saturating_sub(first.mono_ns()) / 1000)
    }

    /// From the SYN to ESTABLISHED, as the client saw it, or until that failed
    pub fn connect_us(&self) -> Option<u64> {
        let [syn, rest @ ..] = self.path() else {
            return None;
        };
        if self.head.role() != Role::Client || syn.state() != tcp::SYN_SENT {
            return None;
        }
        let done = rest
            .iter()
            .find(|step| matches!(step.state(), tcp::ESTABLISHED | tcp::CLOSE))?;
        // 0: that it was there is all that is known.
        let both = syn.mono_ns() != 0 && done.mono_ns() != 0;
        both.then(|| done.mono_ns().saturating_sub(syn.mono_ns()) / 1000)
    }

    /// Time in the accept queue; none if it was not accepted
    pub fn accept_wait_us(&self) -> Option<u64> {
        path::accept_wait_us(&self.path)
    }

    /// Each state it was in and for how long, µs, in the order they were entered; a state entered
    /// before we came is left out, and one whose end was missed. `close()` after `shutdown()` reports the
    /// present state once more: its two parts are one.
    pub fn states(&self) -> impl Iterator<Item = (State, u64)> {
        let path = self.path();
        let mut states = [(State(0), 0_u64); PATH_LEN];
        let mut len = 0;
        for (at, step) in path.iter().enumerate() {
            let next = path.get(at + 1);
            let ends = matches!(step.state(), tcp::CLOSE | tcp::TIME_WAIT);
            if step.mono_ns() == 0 || (next.is_none() && (ends || self.is_deduced())) {
                continue;
            }
            let left_ns = next.map_or(self.end_ns(), |next| next.mono_ns());
            if left_ns == 0 {
                continue;
            }
            let us = left_ns.saturating_sub(step.mono_ns()) / 1000;
            let state = State(step.state());
            // By name: a name is a key in JSON.
            let same = |(known, _): &&mut (State, u64)| known.name() == state.name();
            if let Some((_, total_us)) = states[..len].iter_mut().find(same) {
                *total_us = total_us.saturating_add(us);
            } else {
                states[len] = (state, us);
                len += 1;
            }
        }
        states.into_iter().take(len)
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
        // Where the limit of time-wait sockets is reached, none takes the place of a socket whose peer's
        // FIN has come.
        let none_waits = self.counters.known & KNOWN_NO_FIN == 0 && !self.is_deduced();
        let fin = path
            .iter()
            .enumerate()
            .any(|(at, step)| match step.state() {
                tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING => true,
                // A FIN that came after the socket was gone nobody counted.
                tcp::TIME_WAIT => !self.is_moved() || at + 1 < path.len(),
                tcp::CLOSE => none_waits && at > 0 && path[at - 1].state() == tcp::FIN_WAIT2,
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

    /// The options agreed on
    pub fn options(&self) -> impl Iterator<Item = TcpOption> {
        let options = self.counters().map_or(0, |counters| counters.options);
        [
            (OPTION_SACK, TcpOption::Sack),
            (OPTION_TIMESTAMPS, TcpOption::Timestamps),
            (OPTION_WSCALE, TcpOption::Wscale),
            (OPTION_ECN, TcpOption::Ecn),
            (OPTION_FASTOPEN, TcpOption::Fastopen),
        ]
        .into_iter()
        .filter_map(move |(bit, option)| (options & bit != 0).then_some(option))
    }

    /// Name of the congestion control algorithm; it comes from a kernel module
    pub fn congestion(&self) -> Option<&[u8]> {
        let name = self.counters()?.congestion.as_bytes();
        let len = name.iter().position(|byte| *byte == 0)?;
        (len > 0).then_some(&name[..len])
    }

    /// Whether the process's `close()` made the last state change
    pub fn is_by_close(&self) -> bool {
        self.path.shutdown == SHUTDOWN_BOTH
            && self.counters.end & END_SHUT_BEFORE == 0
            && !self.is_deduced()
            && !self.is_moved()
    }

    /// The RST that was seen before the end, as far as is known
    pub const fn reset(&self) -> Option<Direction> {
        match self.counters.reset {
            RESET_SENT => Some(Direction::Sent),
            RESET_RECEIVED | RESET_EITHER => Some(Direction::Received),
            _ => None,
        }
    }

    /// Whether its last state change was a time-wait socket's
    pub(super) const fn is_moved(&self) -> bool {
        self.path.moved != 0
    }

    const fn end_ns(&self) -> u64 {
        self.path.head.mono_ns
    }

    pub(super) fn path(&self) -> &[Step] {
        path::steps(&self.path)
    }
}

/// `RCV_SHUTDOWN`, include/net/sock.h
pub(super) const RCV_SHUTDOWN: u8 = 1;
/// `SHUTDOWN_MASK`, include/net/sock.h
pub(super) const SHUTDOWN_BOTH: u8 = 3;
