//! How a connection ended, in words.

use std::io::Write as _;

use tcptrace_common::tcp;

use anstyle::Style;

use crate::sink::pen::{DIM, RED, push};
use crate::{
    event::{Connection, Totals},
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
pub(super) fn write(
    detail: Detail,
    connection: &Connection,
    totals: &Totals,
    out: &mut Vec<u8>,
) -> Style {
    let reason = totals.reason();
    let established = totals.was_established();
    let style = if matches!(reason, "normal" | "unknown") {
        DIM
    } else {
        RED
    };
    if detail.states == States::Path {
        grown(connection, totals, out);
        return style;
    }
    how(connection, totals, out);
    let mut took = |label: &str, us: Option<u64>| {
        if let Some(us) = us {
            push(out, label);
            push_duration(out, us);
        }
    };
    if established {
        took(" · connect ", totals.connect_us());
    }
    took(" · handshake ", totals.handshake_us().map(u64::from));
    took(" · queued ", totals.accept_wait_us());
    traffic(totals, established, connection.is_server(), out);
    if let Some(us) = totals.srtt_us().filter(|_| established) {
        push(out, " · rtt ");
        push_duration(out, us.into());
    }
    if detail.handshake && established {
        handshake(totals, out);
    }
    match detail.states {
        States::None | States::Path => {}
        States::Notable => times(totals, out),
    }
    if let Some(closer) = totals
        .closer_pid()
        .filter(|pid| connection.pid() != Some(*pid))
    {
        push(out, " · closed by ");
        push_number(out, closer.into());
    }
    style
}

/// How it went, after how long, and because of whom.
fn how(connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
    let reason = totals.reason();
    let established = totals.was_established();
    if established || reason == "unknown" || connection.is_listener() {
        push(out, "closed");
    } else {
        push_reason(out, reason);
    }
    if let Some(us) = totals.duration_us() {
        push(out, " after ");
        push_duration(out, us);
        if connection.is_inferred() {
            out.push(b'~');
        }
    }
    if reason != "unknown" && established && !connection.is_listener() {
        push(out, " · ");
        push_reason(out, reason);
        if totals.is_reason_inferred(reason) {
            out.push(b'~');
        }
        match totals.closed_by(reason).filter(|_| reason == "normal") {
            Some("both") => push(out, ", both at once"),
            Some(side) => {
                push(out, ", ");
                push(out, side);
                push(out, " first");
            }
            None => {}
        }
    }
}

/// How long it was in the states that say something.
fn times(totals: &Totals, out: &mut Vec<u8>) {
    for (state, us) in totals.states() {
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
fn grown(connection: &Connection, totals: &Totals, out: &mut Vec<u8>) {
    let reason = totals.reason();
    // Why a listener ended says nothing.
    push_reason(
        out,
        if connection.is_listener() {
            "closed"
        } else {
            reason
        },
    );
    if totals.is_reason_inferred(reason) {
        out.push(b'~');
    }
    let mut took = |label: &str, us: Option<u64>| {
        if let Some(us) = us {
            push(out, label);
            push_duration(out, us);
        }
    };
    took(" ", totals.duration_us());
    took(" · queued ", totals.accept_wait_us());
    traffic(
        totals,
        totals.was_established(),
        connection.is_server(),
        out,
    );
    path(totals, out);
}

/// All states in the order they were entered, each with how long it lasted.
fn path(totals: &Totals, out: &mut Vec<u8>) {
    let mut between = " · ";
    for (state, us) in totals.states() {
        push(out, between);
        push(out, state.name());
        out.push(b' ');
        push_duration(out, us);
        between = " → ";
    }
    if totals.passed().any(|state| state.0 == tcp::TIME_WAIT) {
        push(out, between);
        push(out, "TIME_WAIT");
    }
}

/// What both ends agreed on.
fn handshake(totals: &Totals, out: &mut Vec<u8>) {
    if let Some((ours, theirs)) = totals.isns() {
        let _infallible = write!(out, " · isn {ours}/{theirs}");
    }
    if let Some(counters) = totals.counters() {
        let _infallible = write!(out, " · mss {} cwnd {}", counters.mss_bytes, counters.cwnd);
    }
    if let Some((send, receive)) = totals.wscales() {
        let _infallible = write!(out, " · wscale {send}/{receive}");
    }
    for (nth, name) in totals
        .options()
        .filter(|name| *name != "wscale")
        .enumerate()
    {
        push(out, if nth == 0 { " · " } else { " " });
        push(out, name);
    }
    if let Some(name) = totals.congestion() {
        push(out, " · ");
        push_escaped(out, name);
    }
}

/// What went over it.
fn traffic(totals: &Totals, established: bool, is_server: bool, out: &mut Vec<u8>) {
    let Some(counters) = totals.counters() else {
        return;
    };
    if established {
        push(out, " · ↑");
        let sent = counters.tx_bytes.saturating_sub(counters.retrans_bytes);
        push_bytes(out, sent);
        push(out, " ↓");
        push_bytes(out, totals.rx_bytes().unwrap_or(0));
    }
    let again = u64::from(counters.retransmits);
    let of_handshake = if established {
        totals.syn_retransmits().unwrap_or(0).into()
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

fn push_reason(row: &mut Vec<u8>, reason: &str) {
    let begin = row.len();
    push(row, reason);
    for byte in &mut row[begin..] {
        if *byte == b'_' {
            *byte = b' ';
        }
    }
}
