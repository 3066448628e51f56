//! What a transition means on the wire, in words: `--explain`. Pure: a step in, a clause out.
//!
//! "We" is the local socket, "the peer" the other end. Read in net/ipv4/tcp.c, `tcp_input.c`,
//! `tcp_minisocks.c` and `tcp_timer.c`; the diagram is that of RFC 9293, section 3.3.2.

mod ending;
#[cfg(test)]
mod tests;

use tcptrace_common::tcp;

use self::ending::{broken_off, closing_ended, handshake_ended, never_answered};
use crate::event::{Direction, EHOSTUNREACH, ETIMEDOUT, OwnerSource, Reason, Role, Transition};

/// What is proven of a transition besides its states. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// A RST that came or went with the transition; none if none was seen
    pub reset: Option<Direction>,
    /// `sk_err` at the transition: 0 is "no error", none is "not read". `tcp_disconnect` sets
    /// `ECONNRESET` after the transition, so a later reading would blame the peer.
    pub err: Option<u32>,
    /// `sk_shutdown` was `SHUTDOWN_MASK` at the transition: `tcp_close` sets it before the state
    /// changes, `tcp_done` after it
    pub by_close: bool,
    /// What `reset` says was an RST for sure: not data that came after our `close()`
    pub is_reset: bool,
    /// Time in the old state
    pub span_us: Option<u64>,
    /// Whether `accept()` had returned the connection
    pub accepted: Option<bool>,
    /// Whether the handshake used Fast Open (RFC 7413)
    pub fast_open: Option<bool>,
    /// Segments sent again in the old state; 0: none, or not known
    pub retransmits: u32,
}

impl Evidence {
    /// What is proven of a transition.
    fn of(transition: &Transition) -> Self {
        let connection = transition.connection();
        let mut evidence = Self {
            span_us: transition.in_old_us(),
            // That nobody did is not known: not every acceptance is seen on every kernel.
            accepted: (connection.owner_source() == OwnerSource::Accept).then_some(true),
            fast_open: transition.is_without_fastopen().then_some(false),
            ..Self::default()
        };
        let Some(close) = transition.close() else {
            return evidence;
        };
        evidence.err = match close.reason() {
            // The end of a `FIN_WAIT2` leaves no error.
            Reason::Timeout => Some(ETIMEDOUT),
            Reason::Unreachable => Some(EHOSTUNREACH),
            // That our FIN was acknowledged is not known either.
            Reason::Unknown if transition.oldstate().0 == tcp::LAST_ACK => None,
            _ => Some(close.error().unwrap_or(0)),
        };
        evidence.by_close = close.is_by_close();
        evidence.is_reset = !close.is_reason_inferred();
        evidence.reset = match close.reason() {
            Reason::ResetSent => Some(Direction::Sent),
            Reason::ResetReceived => Some(Direction::Received),
            _ => close.reset(),
        };
        if close.reason() == Reason::ListenerClosed {
            evidence.accepted = Some(false);
        }
        evidence.retransmits = close.syn_retransmits().unwrap_or(0);
        evidence
    }
}

/// A transition and what is proven of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the socket is
    pub role: Role,
    /// State before, by the kernel's number (`tcptrace_common::tcp`)
    pub old: u8,
    /// State after
    pub new: u8,
    /// What is proven besides
    pub evidence: Evidence,
}

/// Says what a transition means on the wire, as far as it is proven.
pub fn transition(transition: &Transition) -> &'static str {
    explain(&Step {
        role: transition.connection().role(),
        old: transition.oldstate().0,
        new: transition.newstate().0,
        evidence: Evidence::of(transition),
    })
}

/// Says in one clause what the transition means on the wire and what is awaited: at most 64
/// columns of ASCII, without a full stop.
///
/// | transition | made by | what it proves |
/// | --- | --- | --- |
/// | `CLOSE→LISTEN` | `inet_csk_listen_start` | `listen()` was called |
/// | `CLOSE→SYN_SENT` | `tcp_v4_connect`, `tcp_v6_connect` | `connect()` was called. The port is chosen and the SYN sent afterwards; with `TCP_FASTOPEN_CONNECT` at the first write (`tcp_fastopen_defer_connect`) |
/// | `LISTEN→SYN_RECV` | `inet_csk_clone_lock` | the final ACK of the handshake came (`tcp_check_req`, `cookie_v4_check`); with Fast Open the SYN (`tcp_fastopen_create_child`) |
/// | `LISTEN→CLOSE` | `__tcp_close`, `tcp_disconnect` | the accept queue is emptied: `inet_csk_listen_stop` resets the connections in it, or hands them to another listener |
/// | `SYN_SENT→ESTABLISHED` | `tcp_finish_connect` | a SYN-ACK came (RFC 9293, 3.10.7.3). Our ACK may wait for data to go with |
/// | `SYN_SENT→SYN_RECV` | `tcp_rcv_synsent_state_process` | a SYN without ACK came: simultaneous open, or a socket connected to itself |
/// | `SYN_SENT→CLOSE` | `tcp_reset`, `tcp_v4_err`, `tcp_write_err`, `__tcp_close`, `tcp_disconnect`, `tcp_v4_connect` | no connection. `ECONNREFUSED` is a RST or an ICMP port unreachable |
/// | `SYN_RECV→ESTABLISHED` | `tcp_rcv_state_process` | our SYN was acknowledged |
/// | `SYN_RECV→FIN_WAIT1` | `__tcp_close`, in older kernels `tcp_shutdown` too | closed in the handshake: Fast Open, simultaneous open |
/// | `SYN_RECV→CLOSE_WAIT` | `tcp_fin` | FIN came in the handshake |
/// | `SYN_RECV→CLOSE` | `tcp_reset`, `tcp_write_err`, `tcp_v4_err`, `__tcp_close`, `tcp_disconnect`, `tcp_done` | no connection. The loser of two sockets made for one handshake goes this way too, and the connection lives on |
/// | `ESTABLISHED→FIN_WAIT1`, `CLOSE_WAIT→LAST_ACK` | `tcp_close_state` | FIN handed to `tcp_send_fin`, behind data that still waits for the peer's window |
/// | `ESTABLISHED→CLOSE_WAIT` | `tcp_fin` | the peer's FIN came in order (RFC 9293, 3.10.7.4) |
/// | `ESTABLISHED→CLOSE`, `CLOSE_WAIT→CLOSE` | `tcp_reset`, `__tcp_close`, `tcp_disconnect`, `tcp_write_err`, `tcp_abort` | the end without a FIN of ours; `close()` goes this way only to abort, with RST (RFC 2525, 2.17) |
/// | `FIN_WAIT1→FIN_WAIT2` | `tcp_rcv_state_process` | all we sent is acknowledged, the FIN too |
/// | `FIN_WAIT1→CLOSING` | `tcp_fin` | the peer's FIN came, ours is not acknowledged |
/// | `FIN_WAIT1→FIN_WAIT1` and so on | `tcp_close_state` | `close()` after `shutdown()` |
/// | `FIN_WAIT2→TIME_WAIT` | `tcp_fin`, `tcp_timewait_state_process` | the peer's FIN came |
/// | `CLOSING→TIME_WAIT` | `tcp_rcv_state_process` | our FIN was acknowledged |
/// | `LAST_ACK→CLOSE` | `tcp_rcv_state_process`, `tcp_reset`, `tcp_write_err` | without an error: our FIN was acknowledged. Too many orphans (`tcp_out_of_resources`) leave no error either, but send RST; `close()` with linger 0 after `shutdown()`, or in a dying namespace, is not told apart |
/// | `FIN_WAIT1→CLOSE`, `CLOSING→CLOSE`, `FIN_WAIT2→CLOSE` | `tcp_reset`, `tcp_write_err`, `__tcp_close`, `tcp_done`, `tcp_abort` | the end without `TIME_WAIT`. `tcp_reset` runs for a RST, and in `FIN_WAIT1` and `FIN_WAIT2` for data that came after `close()` |
/// | `TIME_WAIT→CLOSE` | `inet_twsk_kill` | the timer ran out; earlier: a new connection took the pair, RST came (RFC 1337), it was killed, the namespace ended |
///
/// What CRIU restores (`TCP_REPAIR`) goes through these states without a segment, and nothing
/// tells it apart.
pub fn explain(step: &Step) -> &'static str {
    let (old, new) = (step.old, step.new);
    opening(step)
        .or_else(|| closing(step))
        .unwrap_or(if old == new {
            "the same state was reported again"
        } else {
            "the kernel moved it so; no segment is proven"
        })
}

/// From `CLOSE`, `LISTEN`, `SYN_SENT` and `SYN_RECV`.
fn opening(step: &Step) -> Option<&'static str> {
    let Step {
        role,
        old,
        new,
        evidence,
    } = step;
    Some(match (*old, *new) {
        (tcp::CLOSE, tcp::LISTEN) => "our process listens; waiting for a SYN",
        (tcp::CLOSE, tcp::SYN_SENT) if evidence.fast_open == Some(true) => {
            "we send SYN, maybe with data (Fast Open); waiting for SYN-ACK"
        }
        (tcp::CLOSE, tcp::SYN_SENT) => "we send SYN; waiting for SYN-ACK",

        (tcp::LISTEN, tcp::SYN_RECV) => match evidence.fast_open {
            Some(true) => "a Fast Open SYN came; we send SYN-ACK and wait for its ACK",
            Some(false) => "the handshake's final ACK came; its socket is made",
            None => "the final ACK (or a Fast Open SYN) came; its socket is made",
        },
        (tcp::LISTEN, tcp::CLOSE) => "we stopped listening; the accept queue is emptied",

        (tcp::SYN_SENT, tcp::ESTABLISHED) if evidence.retransmits > 0 => {
            "SYN-ACK came after our SYN was sent again; we ACK it"
        }
        (tcp::SYN_SENT, tcp::ESTABLISHED) => "SYN-ACK came and we ACK it; the connection is open",
        (tcp::SYN_SENT, tcp::SYN_RECV) => {
            "a SYN crossed ours; we answer SYN-ACK and wait for its ACK"
        }
        (tcp::SYN_SENT, tcp::CLOSE) => never_answered(evidence),

        (tcp::SYN_RECV, tcp::ESTABLISHED) => match (role, evidence.accepted) {
            (Role::Client, _) => "our SYN was acknowledged; the simultaneous open is complete",
            (Role::Server, Some(false)) => "the handshake is complete; waiting for accept()",
            (Role::Server, _) => "our SYN-ACK was acknowledged; the handshake is complete",
            _ => "our SYN was acknowledged; the handshake is complete",
        },
        (tcp::SYN_RECV, tcp::FIN_WAIT1) => {
            "we sent FIN in the middle of the handshake; waiting for ACK"
        }
        (tcp::SYN_RECV, tcp::CLOSE_WAIT) => {
            "FIN came in the handshake, we ACK it; our process has not closed"
        }
        (tcp::SYN_RECV, tcp::CLOSE) => handshake_ended(*role, evidence),

        _ => return None,
    })
}

/// From `ESTABLISHED` and what comes after it.
fn closing(step: &Step) -> Option<&'static str> {
    let Step {
        role,
        old,
        new,
        evidence,
    } = step;
    Some(match (*old, *new) {
        (tcp::ESTABLISHED, tcp::FIN_WAIT1) => "we sent FIN; waiting for its ACK",
        (tcp::ESTABLISHED, tcp::CLOSE_WAIT) if evidence.accepted == Some(false) => {
            "the peer's FIN came, we ACK it; nobody has accepted yet"
        }
        (tcp::ESTABLISHED, tcp::CLOSE_WAIT) => {
            "the peer's FIN came, we ACK it; our process has not closed"
        }
        (tcp::CLOSE_WAIT, tcp::LAST_ACK) => "we sent our FIN too; waiting for its ACK",
        (tcp::ESTABLISHED | tcp::CLOSE_WAIT, tcp::CLOSE) => broken_off(*role, *old, evidence),

        (tcp::FIN_WAIT1, tcp::FIN_WAIT2) => "our FIN was acknowledged; waiting for the peer's FIN",
        (tcp::FIN_WAIT1, tcp::CLOSING) => {
            "we ACK the peer's FIN; still waiting for the ACK of ours"
        }
        (tcp::FIN_WAIT1, tcp::TIME_WAIT) => {
            "our FIN was acked and the peer's came; the pair is kept 60 s"
        }
        (tcp::FIN_WAIT2, tcp::TIME_WAIT) => {
            "the peer's FIN came, we ACK it; the pair is kept for 60 s"
        }
        (tcp::CLOSING, tcp::TIME_WAIT) => "our FIN was acknowledged; the pair is kept for 60 s",
        (tcp::FIN_WAIT1, tcp::FIN_WAIT1)
        | (tcp::CLOSING, tcp::CLOSING)
        | (tcp::LAST_ACK, tcp::LAST_ACK) => {
            "close() after shutdown(); still waiting for our FIN's ACK"
        }
        (tcp::FIN_WAIT2, tcp::FIN_WAIT2) => {
            "close() after shutdown(); still waiting for the peer's FIN"
        }
        (tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::CLOSING | tcp::LAST_ACK, tcp::CLOSE) => {
            closing_ended(*old, evidence)
        }

        (tcp::TIME_WAIT, tcp::CLOSE) => match evidence.span_us {
            _ if evidence.reset == Some(Direction::Received) => {
                "RST came and ended TIME_WAIT; the pair is free again"
            }
            Some(TIME_WAIT_US..) => "TIME_WAIT ran its 60 s; the pair is free again",
            Some(_) => "ended early: pair reused, RST, killed, or namespace gone",
            None => "TIME_WAIT is over; the pair is free again",
        },

        _ => return None,
    })
}

/// `TCP_TIMEWAIT_LEN` is 60 s; the timer never fires earlier, and jiffies may hide a little.
const TIME_WAIT_US: u64 = 59_000_000;
