//! What a transition means on the wire, in words: `--explain`. Pure: a step in, a clause out.
//!
//! "We" is the local socket, "the peer" the other end. Read in net/ipv4/tcp.c, `tcp_input.c`,
//! `tcp_minisocks.c` and `tcp_timer.c`; the diagram is that of RFC 9293, section 3.3.2.

use tcptrace_common::tcp;

/// What the socket is in its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It called `connect()`
    Client,
    /// Born of a listener
    Server,
    /// It listens
    Listener,
    /// First seen half-way
    #[default]
    Unknown,
}

impl Role {
    /// The role by the name that `event::Connection::role` gives it.
    pub fn named(name: &str) -> Self {
        match name {
            "client" => Self::Client,
            "server" => Self::Server,
            "listener" => Self::Listener,
            _ => Self::Unknown,
        }
    }
}

/// A RST of this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// `tcp:tcp_send_reset`
    Sent,
    /// `tcp:tcp_receive_reset`
    Received,
}

/// What is proven of a transition besides its states. The default: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// A RST that came or went with the transition; none if none was seen
    pub reset: Option<Reset>,
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
    /// The transition was worked out, not seen
    pub inferred: bool,
}

/// A transition and what is proven of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    let Step {
        role,
        old,
        new,
        evidence,
    } = step;
    if evidence.inferred {
        return "worked out, not seen; no segment is proven";
    }
    match (*old, *new) {
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
            _ if evidence.reset == Some(Reset::Received) => {
                "RST came and ended TIME_WAIT; the pair is free again"
            }
            Some(TIME_WAIT_US..) => "TIME_WAIT ran its 60 s; the pair is free again",
            Some(_) => "ended early: pair reused, RST, killed, or namespace gone",
            None => "TIME_WAIT is over; the pair is free again",
        },

        (old, new) if old == new => "the same state was reported again",
        _ => "the kernel moved it so; no segment is proven",
    }
}

/// From `SYN_SENT` to `CLOSE`. A RST of ours is no reason here: a wrong ACK is answered with one,
/// and the socket stays (RFC 9293, 3.10.7.3).
fn never_answered(evidence: &Evidence) -> &'static str {
    if evidence.reset == Some(Reset::Received) {
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
fn handshake_ended(role: Role, evidence: &Evidence) -> &'static str {
    let sent = evidence.reset == Some(Reset::Sent);
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
fn broken_off(role: Role, old: u8, evidence: &Evidence) -> &'static str {
    let sent = evidence.reset == Some(Reset::Sent);
    // An ICMP error may wait in `sk_err` (`IP_RECVERR`) while the process aborts.
    if evidence.by_close && evidence.reset != Some(Reset::Received) {
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
fn closing_ended(old: u8, evidence: &Evidence) -> &'static str {
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
        Cause::Unproven if evidence.reset == Some(Reset::Sent) => {
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
            (Some(Reset::Received), _) | (None, Some(ECONNRESET | EPIPE)) => Self::ResetReceived,
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

/// `TCP_TIMEWAIT_LEN` is 60 s; the timer never fires earlier, and jiffies may hide a little.
const TIME_WAIT_US: u64 = 59_000_000;

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ENONET: u32 = 64;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTDOWN: u32 = 112;
const EHOSTUNREACH: u32 = 113;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tcptrace_common::tcp::{
        CLOSE, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN,
        NEW_SYN_RECV, SYN_RECV, SYN_SENT, TIME_WAIT,
    };

    use super::*;

    const ROLES: [Role; 4] = [Role::Client, Role::Server, Role::Listener, Role::Unknown];

    /// Nothing proven.
    const NOTHING: Evidence = Evidence {
        reset: None,
        err: None,
        by_close: false,
        is_reset: false,
        span_us: None,
        accepted: None,
        fast_open: None,
        retransmits: 0,
        inferred: false,
    };

    const fn err(err: u32) -> Evidence {
        Evidence {
            err: Some(err),
            ..NOTHING
        }
    }

    const fn reset(reset: Reset) -> Evidence {
        Evidence {
            reset: Some(reset),
            ..NOTHING
        }
    }

    /// `close()` and what came of it.
    const fn closed(evidence: Evidence) -> Evidence {
        Evidence {
            by_close: true,
            ..evidence
        }
    }

    const fn queued(evidence: Evidence) -> Evidence {
        Evidence {
            accepted: Some(false),
            ..evidence
        }
    }

    const fn repeated(evidence: Evidence) -> Evidence {
        Evidence {
            retransmits: 2,
            ..evidence
        }
    }

    const fn fast_open(fast_open: bool) -> Evidence {
        Evidence {
            fast_open: Some(fast_open),
            ..NOTHING
        }
    }

    const fn after_us(span_us: u64) -> Evidence {
        Evidence {
            span_us: Some(span_us),
            ..NOTHING
        }
    }

    fn every_evidence() -> Vec<Evidence> {
        let errors = [
            0,
            EPIPE,
            ENONET,
            ENETUNREACH,
            ECONNABORTED,
            ECONNRESET,
            ETIMEDOUT,
            ECONNREFUSED,
            EHOSTUNREACH,
            u32::MAX,
        ];
        let known = [None, Some(false), Some(true)];
        let mut all = Vec::new();
        for reset in [None, Some(Reset::Sent), Some(Reset::Received)] {
            for err in errors.map(Some).into_iter().chain([None]) {
                for by_close in [false, true] {
                    for span_us in [None, Some(0), Some(u64::MAX)] {
                        for accepted in known {
                            for fast_open in known {
                                for retransmits in [0, 1] {
                                    all.push(Evidence {
                                        reset,
                                        err,
                                        by_close,
                                        is_reset: retransmits > 0,
                                        span_us,
                                        accepted,
                                        fast_open,
                                        retransmits,
                                        inferred: false,
                                    });
                                }
                            }
                        }
                    }
                }
            }
        }
        all.push(Evidence {
            inferred: true,
            ..NOTHING
        });
        all
    }

    #[test]
    fn every_pair_is_one_short_clause() {
        let evidence = every_evidence();
        let mut clauses = BTreeSet::new();
        for old in 0..=NEW_SYN_RECV + 1 {
            for new in 0..=NEW_SYN_RECV + 1 {
                for role in ROLES {
                    clauses.extend(evidence.iter().map(|&evidence| {
                        explain(&Step {
                            role,
                            old,
                            new,
                            evidence,
                        })
                    }));
                }
            }
        }
        for clause in clauses {
            assert!((10..=64).contains(&clause.len()), "{clause:?}");
            let printable = clause.bytes().all(|byte| matches!(byte, b' '..=b'~'));
            assert!(printable, "{clause:?}");
            assert!(!clause.ends_with(['.', ' ', ';']), "{clause:?}");
            let word = clause.split([' ', '-']).next().unwrap();
            let acronym = word.chars().all(|c| c.is_uppercase() || c == '_');
            let lower = word.starts_with(char::is_lowercase);
            assert!(lower || acronym, "{clause:?}");
        }
    }

    #[test]
    fn states_alone_prove_no_reset_and_no_timeout() {
        for old in ESTABLISHED..=CLOSING {
            for role in ROLES {
                let clause = explain(&Step {
                    role,
                    old,
                    new: CLOSE,
                    evidence: NOTHING,
                });
                assert!(!clause.contains("RST"), "{clause:?}");
                assert!(!clause.contains("in time"), "{clause:?}");
                assert!(!clause.starts_with("our FIN was"), "{clause:?}");
            }
        }
    }

    #[test]
    fn a_received_reset_ends_every_state_that_it_can_end() {
        for old in [
            SYN_SENT,
            SYN_RECV,
            ESTABLISHED,
            FIN_WAIT1,
            FIN_WAIT2,
            TIME_WAIT,
            CLOSE_WAIT,
            LAST_ACK,
            CLOSING,
        ] {
            for evidence in every_evidence() {
                let clause = explain(&Step {
                    role: Role::Server,
                    old,
                    new: CLOSE,
                    evidence: Evidence {
                        reset: Some(Reset::Received),
                        inferred: false,
                        ..evidence
                    },
                });
                assert!(clause.contains("RST"), "{clause:?}");
                assert!(!clause.contains("we sent RST"), "{clause:?}");
            }
        }
    }

    #[test]
    fn an_inferred_step_claims_nothing() {
        let evidence = Evidence {
            inferred: true,
            ..reset(Reset::Received)
        };
        let clause = explain(&Step {
            role: Role::Client,
            old: ESTABLISHED,
            new: CLOSE,
            evidence,
        });
        assert_eq!(clause, "worked out, not seen; no segment is proven");
    }

    #[test]
    fn roles_have_the_names_of_the_records() {
        let named = ["client", "server", "listener", "unknown"].map(Role::named);
        assert_eq!(named, ROLES);
    }

    /// The edges of RFC 9293's diagram that Linux has, and Linux's own.
    #[test]
    fn edges() {
        use Reset::{Received, Sent};
        use Role::{Client, Listener, Server, Unknown};

        let sent = reset(Sent);
        let received = reset(Received);
        #[rustfmt::skip]
        let edges = [
            (Listener, CLOSE, LISTEN, NOTHING, "our process listens; waiting for a SYN"),
            (Listener, LISTEN, CLOSE, NOTHING, "we stopped listening; the accept queue is emptied"),

            (Client, CLOSE, SYN_SENT, NOTHING, "we send SYN; waiting for SYN-ACK"),
            (Client, CLOSE, SYN_SENT, fast_open(false), "we send SYN; waiting for SYN-ACK"),
            (Client, CLOSE, SYN_SENT, fast_open(true), "we send SYN, maybe with data (Fast Open); waiting for SYN-ACK"),
            (Client, SYN_SENT, ESTABLISHED, NOTHING, "SYN-ACK came and we ACK it; the connection is open"),
            (Client, SYN_SENT, ESTABLISHED, repeated(NOTHING), "SYN-ACK came after our SYN was sent again; we ACK it"),
            (Client, SYN_SENT, SYN_RECV, NOTHING, "a SYN crossed ours; we answer SYN-ACK and wait for its ACK"),
            (Client, SYN_SENT, CLOSE, received, "RST answered our SYN: connection refused"),
            (Client, SYN_SENT, CLOSE, err(ECONNREFUSED), "our SYN was refused, by RST or by ICMP"),
            (Client, SYN_SENT, CLOSE, err(ETIMEDOUT), "no answer to our SYN in time; we gave up"),
            (Client, SYN_SENT, CLOSE, repeated(err(ETIMEDOUT)), "no answer to our SYN, sent more than once; we gave up"),
            (Client, SYN_SENT, CLOSE, err(EHOSTUNREACH), "the peer was reported unreachable; we gave up"),
            (Client, SYN_SENT, CLOSE, err(ENETUNREACH), "the peer was reported unreachable; we gave up"),
            (Client, SYN_SENT, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K)"),
            (Client, SYN_SENT, CLOSE, closed(err(0)), "our process closed it before an answer came"),
            (Client, SYN_SENT, CLOSE, err(0), "connect() was undone before an answer came"),
            (Client, SYN_SENT, CLOSE, sent, "no connection came about; why is not proven"),
            (Client, SYN_SENT, CLOSE, NOTHING, "no connection came about; why is not proven"),

            (Server, LISTEN, SYN_RECV, NOTHING, "the final ACK (or a Fast Open SYN) came; its socket is made"),
            (Server, LISTEN, SYN_RECV, fast_open(false), "the handshake's final ACK came; its socket is made"),
            (Server, LISTEN, SYN_RECV, fast_open(true), "a Fast Open SYN came; we send SYN-ACK and wait for its ACK"),
            (Server, SYN_RECV, ESTABLISHED, NOTHING, "our SYN-ACK was acknowledged; the handshake is complete"),
            (Unknown, SYN_RECV, ESTABLISHED, NOTHING, "our SYN was acknowledged; the handshake is complete"),
            (Server, SYN_RECV, ESTABLISHED, queued(NOTHING), "the handshake is complete; waiting for accept()"),
            (Client, SYN_RECV, ESTABLISHED, NOTHING, "our SYN was acknowledged; the simultaneous open is complete"),
            (Server, SYN_RECV, FIN_WAIT1, NOTHING, "we sent FIN in the middle of the handshake; waiting for ACK"),
            (Server, SYN_RECV, CLOSE_WAIT, NOTHING, "FIN came in the handshake, we ACK it; our process has not closed"),
            (Server, SYN_RECV, CLOSE, received, "RST came before the handshake was complete"),
            (Server, SYN_RECV, CLOSE, err(ECONNRESET), "RST came before the handshake was complete"),
            (Server, SYN_RECV, CLOSE, closed(err(ETIMEDOUT)), "no answer to our SYN-ACK in time; we gave up"),
            (Server, SYN_RECV, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
            (Server, SYN_RECV, CLOSE, closed(sent), "our process aborted the handshake; we sent RST"),
            (Client, SYN_RECV, CLOSE, closed(err(0)), "our process closed it in the handshake"),
            (Server, SYN_RECV, CLOSE, sent, "we sent RST before the handshake was complete"),
            (Server, SYN_RECV, CLOSE, err(0), "the new socket was dropped before it was established"),
            (Client, SYN_RECV, CLOSE, err(0), "ended before the handshake was complete; why is not proven"),

            (Client, ESTABLISHED, FIN_WAIT1, NOTHING, "we sent FIN; waiting for its ACK"),
            (Client, ESTABLISHED, CLOSE_WAIT, NOTHING, "the peer's FIN came, we ACK it; our process has not closed"),
            (Server, ESTABLISHED, CLOSE_WAIT, queued(NOTHING), "the peer's FIN came, we ACK it; nobody has accepted yet"),
            (Client, ESTABLISHED, CLOSE, received, "the peer sent RST; the connection is gone"),
            (Client, ESTABLISHED, CLOSE, err(ECONNRESET), "the peer sent RST; the connection is gone"),
            (Client, ESTABLISHED, CLOSE, closed(err(0)), "we sent RST: closed with linger 0 or with data unread"),
            (Client, ESTABLISHED, CLOSE, closed(err(EHOSTUNREACH)), "we sent RST: closed with linger 0 or with data unread"),
            (Client, ESTABLISHED, CLOSE, err(ETIMEDOUT), "no answer came in time; we gave up"),
            (Client, ESTABLISHED, CLOSE, Evidence { err: Some(ETIMEDOUT), ..sent }, "no answer came in time; we gave up and sent RST"),
            (Client, ESTABLISHED, CLOSE, err(EHOSTUNREACH), "the peer was reported unreachable; we gave up"),
            (Client, ESTABLISHED, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
            (Server, ESTABLISHED, CLOSE, queued(err(0)), "the listener closed before accept(); we sent RST"),
            (Server, ESTABLISHED, CLOSE, queued(err(ECONNRESET)), "the peer sent RST; the connection is gone"),
            (Server, ESTABLISHED, CLOSE, queued(sent), "we sent RST; the connection is gone"),
            (Client, ESTABLISHED, CLOSE, Evidence { err: Some(ECONNRESET), ..sent }, "we sent RST; the connection is gone"),
            (Client, ESTABLISHED, CLOSE, err(0), "ended without a FIN of ours; why is not proven"),

            (Client, CLOSE_WAIT, LAST_ACK, NOTHING, "we sent our FIN too; waiting for its ACK"),
            (Client, CLOSE_WAIT, CLOSE, err(EPIPE), "the peer sent RST after its FIN; the connection is gone"),
            (Client, CLOSE_WAIT, CLOSE, closed(NOTHING), "we sent RST: closed with linger 0 or with data unread"),
            (Server, CLOSE_WAIT, CLOSE, queued(err(0)), "the listener closed before accept(); we sent RST"),
            (Client, CLOSE_WAIT, CLOSE, NOTHING, "ended without a FIN of ours; why is not proven"),
            (Client, LAST_ACK, CLOSE, closed(err(0)), "our FIN was acknowledged; the connection is over"),
            (Client, LAST_ACK, CLOSE, NOTHING, "the wait for our FIN's ACK is over; why is not proven"),
            (Client, LAST_ACK, CLOSE, closed(err(ECONNRESET)), "the peer sent RST in place of our FIN's ACK"),
            (Client, LAST_ACK, CLOSE, closed(err(ETIMEDOUT)), "our FIN was not acknowledged in time; we gave up"),
            (Client, LAST_ACK, CLOSE, Evidence { err: Some(0), ..sent }, "we sent RST in place of waiting for our FIN's ACK"),
            (Client, LAST_ACK, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K)"),

            (Client, FIN_WAIT1, FIN_WAIT2, NOTHING, "our FIN was acknowledged; waiting for the peer's FIN"),
            (Client, FIN_WAIT1, CLOSING, NOTHING, "we ACK the peer's FIN; still waiting for the ACK of ours"),
            (Client, FIN_WAIT1, TIME_WAIT, NOTHING, "our FIN was acked and the peer's came; the pair is kept 60 s"),
            (Client, FIN_WAIT1, CLOSE, received, "the peer sent RST in place of our FIN's ACK"),
            (Client, FIN_WAIT1, CLOSE, closed(received), "the peer sent RST, or data after our close()"),
            (Client, FIN_WAIT1, CLOSE, closed(err(ETIMEDOUT)), "our FIN was not acknowledged in time; we gave up"),
            (Client, FIN_WAIT1, CLOSE, sent, "we sent RST in place of waiting for our FIN's ACK"),
            (Client, FIN_WAIT1, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
            (Client, FIN_WAIT1, CLOSE, NOTHING, "ended before our FIN was acknowledged; why is not proven"),
            (Client, FIN_WAIT2, TIME_WAIT, NOTHING, "the peer's FIN came, we ACK it; the pair is kept for 60 s"),
            (Client, FIN_WAIT2, CLOSE, NOTHING, "the peer's FIN came, or we stopped waiting for it"),
            (Client, FIN_WAIT2, CLOSE, received, "the peer sent RST in place of its FIN"),
            (Client, FIN_WAIT2, CLOSE, closed(err(ECONNRESET)), "the peer sent RST, or data after our close()"),
            (Client, FIN_WAIT2, CLOSE, err(ETIMEDOUT), "the peer's FIN did not come in time; we gave up"),
            (Client, FIN_WAIT2, CLOSE, sent, "we sent RST in place of waiting for the peer's FIN"),
            (Client, CLOSING, TIME_WAIT, NOTHING, "our FIN was acknowledged; the pair is kept for 60 s"),
            (Client, CLOSING, CLOSE, NOTHING, "the wait for our FIN's ACK is over; no TIME_WAIT was seen"),
            (Client, CLOSING, CLOSE, closed(received), "the peer sent RST in place of our FIN's ACK"),
            (Client, CLOSING, CLOSE, err(ETIMEDOUT), "our FIN was not acknowledged in time; we gave up"),

            (Client, FIN_WAIT1, FIN_WAIT1, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),
            (Client, FIN_WAIT2, FIN_WAIT2, NOTHING, "close() after shutdown(); still waiting for the peer's FIN"),
            (Client, CLOSING, CLOSING, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),
            (Client, LAST_ACK, LAST_ACK, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),

            (Client, TIME_WAIT, CLOSE, after_us(60_800_000), "TIME_WAIT ran its 60 s; the pair is free again"),
            (Client, TIME_WAIT, CLOSE, after_us(59_000_000), "TIME_WAIT ran its 60 s; the pair is free again"),
            (Client, TIME_WAIT, CLOSE, after_us(58_999_999), "ended early: pair reused, RST, killed, or namespace gone"),
            (Client, TIME_WAIT, CLOSE, received, "RST came and ended TIME_WAIT; the pair is free again"),
            (Unknown, TIME_WAIT, CLOSE, NOTHING, "TIME_WAIT is over; the pair is free again"),

            (Unknown, ESTABLISHED, ESTABLISHED, NOTHING, "the same state was reported again"),
            (Unknown, LISTEN, SYN_SENT, NOTHING, "the kernel moved it so; no segment is proven"),
        ];
        for (role, old, new, evidence, clause) in edges {
            let step = Step {
                role,
                old,
                new,
                evidence,
            };
            assert_eq!(explain(&step), clause, "{step:?}");
        }
    }
}
