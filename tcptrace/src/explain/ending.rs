//! What the transitions to `CLOSE` mean: why no more came of the connection.

use tcptrace_common::tcp;

use super::Evidence;
use crate::event::{Direction, Role};

/// From `SYN_SENT` to `CLOSE`. A RST of ours is no reason here: a wrong ACK is answered with one,
/// and the socket stays (RFC 9293, 3.10.7.3).
pub(super) fn never_answered(evidence: &Evidence) -> &'static str {
    if evidence.reset == Some(Direction::Received) {
        return "RST answered our SYN: connection refused";
    }
    if evidence.by_close {
        return "our process closed it before an answer came";
    }
    match evidence.err {
        Some(ECONNREFUSED) => "our SYN was refused, by RST or by ICMP",
        Some(ETIMEDOUT) if evidence.retransmits > 0 => {
            "no answer to our SYN, sent more than once; we gave up"
        }
        Some(ETIMEDOUT) => "no answer to our SYN in time; we gave up",
        Some(ENONET | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH) => UNREACHABLE,
        Some(ECONNABORTED) => KILLED,
        // `shutdown()`, `connect(AF_UNSPEC)`, or no port or memory for the SYN. A RST from
        // outside would be ECONNREFUSED.
        Some(0 | ECONNRESET) => "connect() was undone before an answer came",
        _ => "no connection came about; why is not proven",
    }
}

/// From `SYN_RECV` to `CLOSE`. The error comes before `by_close`: `shutdown()` of both ways leaves
/// the socket in this state.
pub(super) fn handshake_ended(role: Role, evidence: &Evidence) -> &'static str {
    let sent = evidence.reset == Some(Direction::Sent);
    match Cause::of(evidence) {
        Cause::ResetReceived => "RST came before the handshake was complete",
        Cause::TimedOut => "no answer to our SYN-ACK in time; we gave up",
        Cause::Unreachable => UNREACHABLE,
        Cause::Killed => KILLED_WITH_RST,
        Cause::Unproven if evidence.by_close && sent => {
            "our process aborted the handshake; we sent RST"
        }
        Cause::Unproven if evidence.by_close => "our process closed it in the handshake",
        Cause::Unproven if sent => "we sent RST before the handshake was complete",
        // No room for it, a listener that closed, or the loser of two for one handshake.
        Cause::Unproven if role == Role::Server && evidence.err == Some(0) => {
            "the new socket was dropped before it was established"
        }
        Cause::Unproven => "ended before the handshake was complete; why is not proven",
    }
}

/// From `ESTABLISHED` or `CLOSE_WAIT` to `CLOSE`: the end without a FIN of ours.
pub(super) fn broken_off(role: Role, old: u8, evidence: &Evidence) -> &'static str {
    let sent = evidence.reset == Some(Direction::Sent);
    // An ICMP error may wait in `sk_err` (`IP_RECVERR`) while the process aborts.
    if evidence.by_close && evidence.reset != Some(Direction::Received) {
        return "we sent RST: closed with linger 0 or with data unread";
    }
    // Whoever waits in an accept queue meets no `close()` and no `connect()` of its own.
    let unaccepted = role == Role::Server && evidence.accepted == Some(false);
    match Cause::of(evidence) {
        Cause::ResetReceived if old == tcp::CLOSE_WAIT => {
            "the peer sent RST after its FIN; the connection is gone"
        }
        Cause::ResetReceived => "the peer sent RST; the connection is gone",
        Cause::TimedOut if sent => "no answer came in time; we gave up and sent RST",
        Cause::TimedOut => "no answer came in time; we gave up",
        Cause::Unreachable => UNREACHABLE,
        Cause::Killed => KILLED_WITH_RST,
        Cause::Unproven if unaccepted && evidence.err == Some(0) => {
            "the listener closed before accept(); we sent RST"
        }
        Cause::Unproven if sent => "we sent RST; the connection is gone",
        Cause::Unproven => "ended without a FIN of ours; why is not proven",
    }
}

/// From `FIN_WAIT1`, `FIN_WAIT2`, `CLOSING` or `LAST_ACK` to `CLOSE`. That the process closed the
/// socket is nothing new here; what came after it is.
pub(super) fn closing_ended(old: u8, evidence: &Evidence) -> &'static str {
    let waits_for_fin = old == tcp::FIN_WAIT2;
    match Cause::of(evidence) {
        // `tcp_reset` is called for both, and its tracepoint fires for both.
        Cause::ResetReceived
            if evidence.by_close
                && !evidence.is_reset
                && matches!(old, tcp::FIN_WAIT1 | tcp::FIN_WAIT2) =>
        {
            "the peer sent RST, or data after our close()"
        }
        Cause::ResetReceived if waits_for_fin => "the peer sent RST in place of its FIN",
        Cause::ResetReceived => "the peer sent RST in place of our FIN's ACK",
        Cause::TimedOut if waits_for_fin => "the peer's FIN did not come in time; we gave up",
        Cause::TimedOut => "our FIN was not acknowledged in time; we gave up",
        Cause::Unreachable => UNREACHABLE,
        // `tcp_need_reset`
        Cause::Killed if matches!(old, tcp::FIN_WAIT1 | tcp::FIN_WAIT2) => KILLED_WITH_RST,
        Cause::Killed => KILLED,
        Cause::Unproven if evidence.reset == Some(Direction::Sent) => {
            if waits_for_fin {
                "we sent RST in place of waiting for the peer's FIN"
            } else {
                "we sent RST in place of waiting for our FIN's ACK"
            }
        }
        Cause::Unproven => match old {
            tcp::FIN_WAIT1 => "ended before our FIN was acknowledged; why is not proven",
            tcp::FIN_WAIT2 => "the peer's FIN came, or we stopped waiting for it",
            tcp::LAST_ACK if evidence.err == Some(0) => {
                "our FIN was acknowledged; the connection is over"
            }
            tcp::LAST_ACK => "the wait for our FIN's ACK is over; why is not proven",
            _ => "the wait for our FIN's ACK is over; no TIME_WAIT was seen",
        },
    }
}

/// Why a socket went to `CLOSE`, as far as RST and error prove it.
#[derive(Clone, Copy)]
enum Cause {
    ResetReceived,
    TimedOut,
    /// After a timeout too: `tcp_write_err` prefers the ICMP error that came meanwhile.
    Unreachable,
    /// `tcp_abort`
    Killed,
    Unproven,
}

impl Cause {
    fn of(evidence: &Evidence) -> Self {
        match (evidence.reset, evidence.err) {
            (Some(Direction::Received), _) | (None, Some(ECONNRESET | EPIPE)) => {
                Self::ResetReceived
            }
            (_, Some(ETIMEDOUT)) => Self::TimedOut,
            (_, Some(ENONET | ENETUNREACH | EHOSTDOWN | EHOSTUNREACH)) => Self::Unreachable,
            (_, Some(ECONNABORTED)) => Self::Killed,
            _ => Self::Unproven,
        }
    }
}

const UNREACHABLE: &str = "the peer was reported unreachable; we gave up";
const KILLED: &str = "ended from outside (such as ss -K)";
const KILLED_WITH_RST: &str = "ended from outside (such as ss -K); we sent RST";

// include/uapi/asm-generic/errno.h
pub(super) const EPIPE: u32 = 32;
pub(super) const ENONET: u32 = 64;
pub(super) const ENETUNREACH: u32 = 101;
pub(super) const ECONNABORTED: u32 = 103;
pub(super) const ECONNRESET: u32 = 104;
pub(super) const ETIMEDOUT: u32 = 110;
pub(super) const ECONNREFUSED: u32 = 111;
pub(super) const EHOSTDOWN: u32 = 112;
pub(super) const EHOSTUNREACH: u32 = 113;
