//! Run by the agent every few milliseconds with `--slower-than`: reports what still waits when the limit
//! has passed, for the SYN-ACK or for `accept()`.
//!
//! All wait for the same time, so [`SLOW`] holds them in the order in which their limits pass.

use tcptrace_common::{
    count,
    record::{KIND_SLOW, SLOW_ACCEPT, SLOW_CONNECT, UNKNOWN},
    tcp,
};

use crate::{
    constants::{config, off},
    emit,
    filter::{self, Decision},
    kernel::{self, Object as _, Probed},
    maps::{BACKLOGS, SLOW, SLOW_NEXT, SOCKS},
    publish,
    sock::{Sock, Waiting},
    tuple::Tuple,
};

/// So many are looked at in one run.
const AT_ONCE: u32 = 16;

answering! {
    /// Returns 1 if there may be more whose limit has passed.
    fn slow(_arguments) -> u32 {
        for _ in 0..AT_ONCE {
            let Some(waiting) = next(kernel::now_ns()) else {
                return 0;
            };
            report(waiting);
        }
        1
    }
}

/// The next one whose limit has passed. Only the agent's thread runs this.
#[inline(always)]
fn next(now_ns: u64) -> Option<Waiting> {
    let first = SLOW_NEXT.get_ptr_mut(0)?;
    // SAFETY: a live map value, this program's alone.
    let first = unsafe { &mut *first };
    if first.key == 0 {
        *first = SLOW.pop().ok()??;
    }
    if now_ns.wrapping_sub(first.since_ns) < config!(slower_ns) {
        return None;
    }
    let waiting = *first;
    first.key = 0;
    Some(waiting)
}

/// Reports a connection that still waits.
#[inline(never)]
fn report(waiting: Waiting) {
    let Some(pointer) = SOCKS.get_ptr_mut(waiting.key) else {
        return;
    };
    // SAFETY: a live record, only read. What is read of one that is replaced meanwhile is thrown away.
    let sock = unsafe { &*pointer };
    let Some((phase, state)) = phase(sock, waiting.since_ns) else {
        return;
    };
    // Who accepts is not known yet: until then the listener's owner is asked for.
    if filter::owner_at_end(sock) != Decision::Show {
        return;
    }
    let sk = Probed(waiting.key);
    let tuple = Tuple::read(sk, false, || 0);
    if tuple.whole == 0 || sock.conn == 0 || !filter::tuple::takes(&tuple) {
        return;
    }
    let conn = sock.conn;
    let now_ns = kernel::now_ns();
    emit::detail_if(
        sock,
        &tuple,
        KIND_SLOW,
        now_ns,
        count::RING_FULL_DETAIL,
        |head, numbers| {
            head.seq = phase;
            head.old = state;
            head.new = state;
            head.span_ns = now_ns.saturating_sub(waiting.since_ns);
            if phase == SLOW_CONNECT {
                numbers[0] = retransmits(sk);
            } else {
                [numbers[0], numbers[1]] = queue_of(sock.listener);
            }
        },
        || publish::is_still(sk, conn),
    );
}

/// What a connection that began to wait at this time waits for, and its state; none if it no longer does.
#[inline(always)]
fn phase(sock: &Sock, since_ns: u64) -> Option<(u8, u8)> {
    let state = sock.state();
    if sock.path_len == 1 && state == tcp::SYN_SENT && sock.step(0).mono_ns() == since_ns {
        return Some((SLOW_CONNECT, state));
    }
    let queued = sock.step(1);
    let waits = state == tcp::ESTABLISHED || state == tcp::CLOSE_WAIT;
    (waits
        && sock.accept_ns == 0
        && queued.state() == tcp::ESTABLISHED
        && queued.mono_ns() == since_ns)
        .then_some((SLOW_ACCEPT, state))
}

#[inline(always)]
fn retransmits(sk: Probed) -> u32 {
    if off!(tp_syn_data_acked) == tcptrace_common::layout::ABSENT {
        return UNKNOWN;
    }
    sk.read(off!(tp_total_retrans))
}

/// The accept queue of a listener, and its limit.
#[inline(always)]
fn queue_of(listener: u64) -> [u32; 2] {
    // As long as its record is there, the listener is, too.
    if BACKLOGS.get_ptr_mut(listener).is_none() {
        return [UNKNOWN; 2];
    }
    let sk = Probed(listener);
    [
        sk.read(off!(sk_ack_backlog)),
        sk.read(off!(sk_max_ack_backlog)),
    ]
}
