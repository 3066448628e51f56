//! Filters that ask what becomes of the connection: `--slower-than`, `--failed`.

use tcptrace_common::{
    record::{ROLE_CLIENT, ROLE_SERVER},
    tcp,
};

use super::Decision::{self, Drop, Show, Wait};
use crate::{constants::config, sock::Sock};

/// Whether a connection must do something to be shown: take long, or fail.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    is_slow_on() || config!(failed) != 0
}

/// Whether it must have taken long to connect, or to be accepted.
#[inline(always)]
pub(crate) fn is_slow_on() -> bool {
    config!(slower_ns) != 0
}

/// Of a connection that was slow: whether it failed as well, the agent finds out at its end.
#[inline(always)]
fn slow() -> Decision {
    if config!(failed) != 0 { Wait } else { Show }
}

/// When the connection has entered the state `new`.
#[inline(always)]
pub(crate) fn at_step(sock: &Sock, new: u8, now_ns: u64) -> Decision {
    let ends = new == tcp::CLOSE;
    let mut decision = if sock.by_outcome == Show as u8 {
        Show
    } else {
        Wait
    };
    if is_slow_on() && decision != Show {
        // How long it took to connect nobody knows, or it is no connection.
        if sock.role != ROLE_CLIENT && sock.role != ROLE_SERVER {
            return if ends { Drop } else { Wait };
        }
        // A client's time runs from its first step, that of a server's connection from the step
        // into ESTABLISHED until `accept()`.
        let (from, decides) = if sock.role == ROLE_CLIENT {
            (
                sock.step(0),
                new == tcp::ESTABLISHED || (ends && sock.path_len == 2),
            )
        } else {
            (sock.step(1), ends && sock.accept_ns == 0)
        };
        if decides {
            if now_ns.wrapping_sub(from.mono_ns()) < config!(slower_ns) {
                return Drop;
            }
            decision = slow();
        }
    }
    if ends && config!(failed) != 0 {
        decision = Show;
    }
    decision
}

/// When `accept()` has returned the connection.
#[inline(always)]
pub(crate) fn at_accept(sock: &Sock, now_ns: u64) -> Decision {
    if !is_slow_on() || sock.by_outcome == Show as u8 {
        return if sock.by_outcome == Show as u8 {
            Show
        } else {
            Wait
        };
    }
    let queued = sock.step(1);
    let waited_ns = now_ns.saturating_sub(queued.mono_ns());
    if queued.mono_ns() == 0 || waited_ns < config!(slower_ns) {
        return Drop;
    }
    slow()
}

/// When nothing else becomes known.
#[inline(always)]
pub(crate) fn at_end(sock: &Sock) -> Decision {
    if config!(failed) != 0 || sock.by_outcome == Show as u8 {
        Show
    } else {
        Wait
    }
}
