//! How a connection ended, in words.

use std::io::Write as _;

use tcptrace_common::tcp;

use anstyle::Style;

use crate::sink::pen::{DIM, RED, push};
use crate::{
    event::{Act, Cause, Close, ClosedBy, Reason, Role, TcpOption},
    sink::text::{count, push_bytes, push_duration, push_escaped, push_number},
};

/// So long in a state that lasts until the peer acknowledges is worth telling, µs.
const STUCK_US: u64 = 1_000;

/// How much of it to tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Detail {
    /// What both ends agreed on
    pub(super) handshake: bool,
    /// How long it was in which state
    pub(super) states: States,
}

/// Which states to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum States {
    /// None
    None,
    /// Those whose time says something
    Notable,
    /// All, in the order they were entered
    Path,
}

/// Appends how this connection ended. Returns the style of these words.
pub(super) fn write(detail: Detail, close: &Close, out: &mut Vec<u8>) -> Style {
    let connection = close.connection();
    let established = close.was_established();
    let style = if matches!(close.reason(), Reason::Normal | Reason::Unknown) {
        DIM
    } else {
        RED
    };
    if detail.states == States::Path {
        grown(close, out);
        return style;
    }
    how(close, out);
    if established {
        took(" · connect ", close.connect_us(), out);
    }
    took(" · handshake ", close.handshake_us().map(u64::from), out);
    took(" · queued ", close.accept_wait_us(), out);
    traffic(
        close,
        established,
        close.connection().role() == Role::Server,
        out,
    );
    if let Some(us) = close.srtt_us().filter(|_| established) {
        push(out, " · rtt ");
        push_duration(out, us.into());
    }
    if detail.handshake && established {
        handshake(close, out);
    }
    match detail.states {
        States::None | States::Path => {}
        States::Notable => times(close, out),
    }
    if let Some(closer) = close
        .closer_pid()
        .filter(|pid| connection.pid() != Some(*pid))
    {
        push(out, " · closed by ");
        push_number(out, closer.into());
    }
    style
}

/// How long something took, if that is known.
fn took(label: &str, us: Option<u64>, out: &mut Vec<u8>) {
    if let Some(us) = us {
        push(out, label);
        push_duration(out, us);
    }
}

/// How it went, after how long, and because of whom.
fn how(close: &Close, out: &mut Vec<u8>) {
    let reason = close.reason();
    let is_listener = close.connection().role() == Role::Listener;
    let established = close.was_established();
    if established || reason == Reason::Unknown || is_listener {
        push(out, "closed");
    } else {
        push_reason(out, reason);
    }
    if let Some(us) = close.duration_us() {
        push(out, " after ");
        push_duration(out, us);
        if close.is_inferred() {
            out.push(b'~');
        }
    }
    if reason != Reason::Unknown && established && !is_listener {
        push(out, " · ");
        push_reason(out, reason);
        if close.is_reason_inferred() {
            out.push(b'~');
        }
        match close.closed_by().filter(|_| reason == Reason::Normal) {
            Some(ClosedBy::Both) => push(out, ", both at once"),
            Some(side) => {
                push(out, ", ");
                push(out, side.name());
                push(out, " first");
            }
            None => {}
        }
        cause(close, out);
    }
    end_of_process(close, out);
}

/// By what our side aborted it.
fn cause(close: &Close, out: &mut Vec<u8>) {
    let words = match close.cause() {
        Some(Cause::Linger) => ": linger 0",
        Some(Cause::UnreadData) => ": data unread",
        Some(Cause::DataAfterClose) => ": data came after close()",
        Some(Cause::Disconnect) => ": connect(AF_UNSPEC)",
        Some(Cause::Destroyed) => ": from outside, as by ss -K",
        None => return,
    };
    push(out, words);
}

/// That the process which closed it came to its own end: `close()` and `shutdown()` go without saying.
fn end_of_process(close: &Close, out: &mut Vec<u8>) {
    match close.closed_because() {
        Some(Act::Exit) => push(out, " · process exited"),
        Some(Act::Killed) => {
            push(out, " · process killed");
            if let Some(signal) = close.signal() {
                push(out, " by ");
                push(out, &signal);
            }
        }
        _ => {}
    }
}

/// How long it was in the states that say something.
fn times(close: &Close, out: &mut Vec<u8>) {
    for (state, us) in close.states() {
        let shown = match state.0 {
            tcp::ESTABLISHED | tcp::CLOSE_WAIT | tcp::FIN_WAIT2 | tcp::LISTEN => true,
            // Only as long as an answer takes, unless something is stuck.
            tcp::FIN_WAIT1 | tcp::LAST_ACK | tcp::CLOSING => us >= STUCK_US,
            // The handshake has its own words.
            _ => false,
        };
        if shown {
            push(out, " · ");
            push(out, state.name());
            out.push(b' ');
            push_duration(out, us);
        }
    }
}

/// How it ended, what went over it, and all its states.
fn grown(close: &Close, out: &mut Vec<u8>) {
    let reason = close.reason();
    // Why a listener ended says nothing.
    if close.connection().role() == Role::Listener {
        push(out, "closed");
    } else {
        push_reason(out, reason);
    }
    if close.is_reason_inferred() {
        out.push(b'~');
    }
    cause(close, out);
    took(" ", close.duration_us(), out);
    end_of_process(close, out);
    took(" · queued ", close.accept_wait_us(), out);
    traffic(
        close,
        close.was_established(),
        close.connection().role() == Role::Server,
        out,
    );
    path(close, out);
}

/// All states in the order they were entered, each with how long it lasted.
fn path(close: &Close, out: &mut Vec<u8>) {
    let mut between = " · ";
    for (state, us) in close.states() {
        push(out, between);
        push(out, state.name());
        out.push(b' ');
        push_duration(out, us);
        between = " → ";
    }
    if close.passed().any(|state| state.0 == tcp::TIME_WAIT) {
        push(out, between);
        push(out, "TIME_WAIT");
    }
}

/// What both ends agreed on.
fn handshake(close: &Close, out: &mut Vec<u8>) {
    if let Some((ours, theirs)) = close.isns() {
        let _infallible = write!(out, " · isn {ours}/{theirs}");
    }
    if let Some(counters) = close.counters() {
        let _infallible = write!(out, " · mss {} cwnd {}", counters.mss_bytes, counters.cwnd);
    }
    if let Some((send, receive)) = close.wscales() {
        let _infallible = write!(out, " · wscale {send}/{receive}");
    }
    for (nth, option) in close
        .options()
        .filter(|option| *option != TcpOption::Wscale)
        .enumerate()
    {
        push(out, if nth == 0 { " · " } else { " " });
        push(out, option.name());
    }
    if let Some(name) = close.congestion() {
        push(out, " · ");
        push_escaped(out, name);
    }
}

/// What went over it.
fn traffic(close: &Close, established: bool, is_server: bool, out: &mut Vec<u8>) {
    let Some(counters) = close.counters() else {
        return;
    };
    if established {
        push(out, " · ↑");
        let sent = counters.tx_bytes.saturating_sub(counters.retrans_bytes);
        push_bytes(out, sent);
        push(out, " ↓");
        push_bytes(out, close.rx_bytes().unwrap_or(0));
    }
    let again = u64::from(counters.retransmits);
    let of_handshake = if established {
        close.syn_retransmits().unwrap_or(0).into()
    } else {
        again
    };
    let what = if is_server { "SYN-ACK" } else { "SYN" };
    match of_handshake {
        0 => {}
        1 => {
            let _infallible = write!(out, " · {what} sent again once");
        }
        _ => {
            let times = count(of_handshake);
            let _infallible = write!(out, " · {what} sent again {times} times");
        }
    }
    match again.saturating_sub(of_handshake) {
        0 => {}
        1 => push(out, " · 1 segment sent again"),
        others => {
            let _infallible = write!(out, " · {} segments sent again", count(others));
        }
    }
}

fn push_reason(row: &mut Vec<u8>, reason: Reason) {
    let begin = row.len();
    push(row, reason.name());
    for byte in &mut row[begin..] {
        if *byte == b'_' {
            *byte = b' ';
        }
    }
}
