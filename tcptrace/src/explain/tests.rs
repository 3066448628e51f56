use std::collections::BTreeSet;

use tcptrace_common::tcp::{
    CLOSE, CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, LAST_ACK, LISTEN, NEW_SYN_RECV,
    SYN_RECV, SYN_SENT, TIME_WAIT,
};

use super::{
    Direction, ETIMEDOUT, Evidence,
    Role::{self, Client, Listener, Server, Unknown},
    Step,
    ending::{ECONNABORTED, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, ENETUNREACH, ENONET, EPIPE},
    explain,
};

const ROLES: &[Role] = Role::ALL;

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
};

const fn err(err: u32) -> Evidence {
    Evidence {
        err: Some(err),
        ..NOTHING
    }
}

const fn reset(reset: Direction) -> Evidence {
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
    for reset in [None, Some(Direction::Sent), Some(Direction::Received)] {
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
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_pair_is_one_short_clause() {
    let evidence = every_evidence();
    let mut clauses = BTreeSet::new();
    for old in 0..=NEW_SYN_RECV + 1 {
        for new in 0..=NEW_SYN_RECV + 1 {
            for &role in ROLES {
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
        for &role in ROLES {
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
                role: Server,
                old,
                new: CLOSE,
                evidence: Evidence {
                    reset: Some(Direction::Received),
                    ..evidence
                },
            });
            assert!(clause.contains("RST"), "{clause:?}");
            assert!(!clause.contains("we sent RST"), "{clause:?}");
        }
    }
}

const SENT: Evidence = reset(Direction::Sent);
const RECEIVED: Evidence = reset(Direction::Received);

/// The edges of RFC 9293's diagram that Linux has, and Linux's own.
#[rustfmt::skip]
const EDGES: &[(Role, u8, u8, Evidence, &str)] = &[
    (Listener, CLOSE, LISTEN, NOTHING, "our process listens; waiting for a SYN"),
    (Listener, LISTEN, CLOSE, NOTHING, "we stopped listening; the accept queue is emptied"),

    (Client, CLOSE, SYN_SENT, NOTHING, "we send SYN; waiting for SYN-ACK"),
    (Client, CLOSE, SYN_SENT, fast_open(false), "we send SYN; waiting for SYN-ACK"),
    (Client, CLOSE, SYN_SENT, fast_open(true), "we send SYN, maybe with data (Fast Open); waiting for SYN-ACK"),
    (Client, SYN_SENT, ESTABLISHED, NOTHING, "SYN-ACK came and we ACK it; the connection is open"),
    (Client, SYN_SENT, ESTABLISHED, repeated(NOTHING), "SYN-ACK came after our SYN was sent again; we ACK it"),
    (Client, SYN_SENT, SYN_RECV, NOTHING, "a SYN crossed ours; we answer SYN-ACK and wait for its ACK"),
    (Client, SYN_SENT, CLOSE, RECEIVED, "RST answered our SYN: connection refused"),
    (Client, SYN_SENT, CLOSE, err(ECONNREFUSED), "our SYN was refused, by RST or by ICMP"),
    (Client, SYN_SENT, CLOSE, err(ETIMEDOUT), "no answer to our SYN in time; we gave up"),
    (Client, SYN_SENT, CLOSE, repeated(err(ETIMEDOUT)), "no answer to our SYN, sent more than once; we gave up"),
    (Client, SYN_SENT, CLOSE, err(EHOSTUNREACH), "the peer was reported unreachable; we gave up"),
    (Client, SYN_SENT, CLOSE, err(ENETUNREACH), "the peer was reported unreachable; we gave up"),
    (Client, SYN_SENT, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K)"),
    (Client, SYN_SENT, CLOSE, closed(err(0)), "our process closed it before an answer came"),
    (Client, SYN_SENT, CLOSE, err(0), "connect() was undone before an answer came"),
    (Client, SYN_SENT, CLOSE, SENT, "no connection came about; why is not proven"),
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
    (Server, SYN_RECV, CLOSE, RECEIVED, "RST came before the handshake was complete"),
    (Server, SYN_RECV, CLOSE, err(ECONNRESET), "RST came before the handshake was complete"),
    (Server, SYN_RECV, CLOSE, closed(err(ETIMEDOUT)), "no answer to our SYN-ACK in time; we gave up"),
    (Server, SYN_RECV, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
    (Server, SYN_RECV, CLOSE, closed(SENT), "our process aborted the handshake; we sent RST"),
    (Client, SYN_RECV, CLOSE, closed(err(0)), "our process closed it in the handshake"),
    (Server, SYN_RECV, CLOSE, SENT, "we sent RST before the handshake was complete"),
    (Server, SYN_RECV, CLOSE, err(0), "the new socket was dropped before it was established"),
    (Client, SYN_RECV, CLOSE, err(0), "ended before the handshake was complete; why is not proven"),

    (Client, ESTABLISHED, FIN_WAIT1, NOTHING, "we sent FIN; waiting for its ACK"),
    (Client, ESTABLISHED, CLOSE_WAIT, NOTHING, "the peer's FIN came, we ACK it; our process has not closed"),
    (Server, ESTABLISHED, CLOSE_WAIT, queued(NOTHING), "the peer's FIN came, we ACK it; nobody has accepted yet"),
    (Client, ESTABLISHED, CLOSE, RECEIVED, "the peer sent RST; the connection is gone"),
    (Client, ESTABLISHED, CLOSE, err(ECONNRESET), "the peer sent RST; the connection is gone"),
    (Client, ESTABLISHED, CLOSE, closed(err(0)), "we sent RST: closed with linger 0 or with data unread"),
    (Client, ESTABLISHED, CLOSE, closed(err(EHOSTUNREACH)), "we sent RST: closed with linger 0 or with data unread"),
    (Client, ESTABLISHED, CLOSE, err(ETIMEDOUT), "no answer came in time; we gave up"),
    (Client, ESTABLISHED, CLOSE, Evidence { err: Some(ETIMEDOUT), ..SENT }, "no answer came in time; we gave up and sent RST"),
    (Client, ESTABLISHED, CLOSE, err(EHOSTUNREACH), "the peer was reported unreachable; we gave up"),
    (Client, ESTABLISHED, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
    (Server, ESTABLISHED, CLOSE, queued(err(0)), "the listener closed before accept(); we sent RST"),
    (Server, ESTABLISHED, CLOSE, queued(err(ECONNRESET)), "the peer sent RST; the connection is gone"),
    (Server, ESTABLISHED, CLOSE, queued(SENT), "we sent RST; the connection is gone"),
    (Client, ESTABLISHED, CLOSE, Evidence { err: Some(ECONNRESET), ..SENT }, "we sent RST; the connection is gone"),
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
    (Client, LAST_ACK, CLOSE, Evidence { err: Some(0), ..SENT }, "we sent RST in place of waiting for our FIN's ACK"),
    (Client, LAST_ACK, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K)"),

    (Client, FIN_WAIT1, FIN_WAIT2, NOTHING, "our FIN was acknowledged; waiting for the peer's FIN"),
    (Client, FIN_WAIT1, CLOSING, NOTHING, "we ACK the peer's FIN; still waiting for the ACK of ours"),
    (Client, FIN_WAIT1, TIME_WAIT, NOTHING, "our FIN was acked and the peer's came; the pair is kept 60 s"),
    (Client, FIN_WAIT1, CLOSE, RECEIVED, "the peer sent RST in place of our FIN's ACK"),
    (Client, FIN_WAIT1, CLOSE, closed(RECEIVED), "the peer sent RST, or data after our close()"),
    (Client, FIN_WAIT1, CLOSE, closed(err(ETIMEDOUT)), "our FIN was not acknowledged in time; we gave up"),
    (Client, FIN_WAIT1, CLOSE, SENT, "we sent RST in place of waiting for our FIN's ACK"),
    (Client, FIN_WAIT1, CLOSE, err(ECONNABORTED), "ended from outside (such as ss -K); we sent RST"),
    (Client, FIN_WAIT1, CLOSE, NOTHING, "ended before our FIN was acknowledged; why is not proven"),
    (Client, FIN_WAIT2, TIME_WAIT, NOTHING, "the peer's FIN came, we ACK it; the pair is kept for 60 s"),
    (Client, FIN_WAIT2, CLOSE, NOTHING, "the peer's FIN came, or we stopped waiting for it"),
    (Client, FIN_WAIT2, CLOSE, RECEIVED, "the peer sent RST in place of its FIN"),
    (Client, FIN_WAIT2, CLOSE, closed(err(ECONNRESET)), "the peer sent RST, or data after our close()"),
    (Client, FIN_WAIT2, CLOSE, err(ETIMEDOUT), "the peer's FIN did not come in time; we gave up"),
    (Client, FIN_WAIT2, CLOSE, SENT, "we sent RST in place of waiting for the peer's FIN"),
    (Client, CLOSING, TIME_WAIT, NOTHING, "our FIN was acknowledged; the pair is kept for 60 s"),
    (Client, CLOSING, CLOSE, NOTHING, "the wait for our FIN's ACK is over; no TIME_WAIT was seen"),
    (Client, CLOSING, CLOSE, closed(RECEIVED), "the peer sent RST in place of our FIN's ACK"),
    (Client, CLOSING, CLOSE, err(ETIMEDOUT), "our FIN was not acknowledged in time; we gave up"),

    (Client, FIN_WAIT1, FIN_WAIT1, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),
    (Client, FIN_WAIT2, FIN_WAIT2, NOTHING, "close() after shutdown(); still waiting for the peer's FIN"),
    (Client, CLOSING, CLOSING, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),
    (Client, LAST_ACK, LAST_ACK, NOTHING, "close() after shutdown(); still waiting for our FIN's ACK"),

    (Client, TIME_WAIT, CLOSE, after_us(60_800_000), "TIME_WAIT ran its 60 s; the pair is free again"),
    (Client, TIME_WAIT, CLOSE, after_us(59_000_000), "TIME_WAIT ran its 60 s; the pair is free again"),
    (Client, TIME_WAIT, CLOSE, after_us(58_999_999), "ended early: pair reused, RST, killed, or namespace gone"),
    (Client, TIME_WAIT, CLOSE, RECEIVED, "RST came and ended TIME_WAIT; the pair is free again"),
    (Unknown, TIME_WAIT, CLOSE, NOTHING, "TIME_WAIT is over; the pair is free again"),

    (Unknown, ESTABLISHED, ESTABLISHED, NOTHING, "the same state was reported again"),
    (Unknown, LISTEN, SYN_SENT, NOTHING, "the kernel moved it so; no segment is proven"),];

#[test]
fn edges() {
    for &(role, old, new, evidence, clause) in EDGES {
        let step = Step {
            role,
            old,
            new,
            evidence,
        };
        assert_eq!(explain(&step), clause, "{step:?}");
    }
}
