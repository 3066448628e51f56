//! Run by the agent as the trace ends: reports the connections that are still open.

use tcptrace_common::{
    config::FINDS_PER_RUN,
    count,
    record::{KIND_OPEN, ROLE_LISTENER},
};

use crate::{
    constants::{config, off},
    emit, filter,
    kernel::{self, Object as _, Probed},
    maps::SOCKS,
    publish,
    sock::{DEAD, PARTIAL, Sock},
    tuple::Tuple,
};

answering! {
    /// The arguments: 1 for those that were open before the trace, 0 for those that began during it; and the
    /// keys of records, of which the first 0 ends them.
    fn still_open(arguments) -> u32 {
        let &[before, a, b, c, d, ..] = arguments;
        let keys: [u64; FINDS_PER_RUN] = [a, b, c, d];
        for key in keys {
            if key == 0 {
                break;
            }
            report(key, before != 0);
        }
        0
    }
}

/// A function of its own: one copy of it is enough.
#[inline(never)]
fn report(key: u64, before: bool) {
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a live record; no other program writes it any more.
    let sock = unsafe { &*pointer };
    let partial = sock.flags & PARTIAL != 0;
    if partial != before || !is_open(sock) || !filter::is_shown(sock) {
        return;
    }
    if sock.tuple.whole != 0 {
        send(sock, &sock.tuple, partial);
        return;
    }
    // Nothing has happened since its first step, which came before its port.
    let sk = Probed(key);
    let tuple = Tuple::read(sk, false, || 0);
    let is_still = sk.read::<u8>(off!(sk_state)) == sock.state()
        && (config!(cookie_helper) == 0 || publish::is_still(sk, sock.conn));
    if tuple.whole != 0 && is_still && filter::tuple::takes(&tuple) {
        send(sock, &tuple, partial);
    }
}

#[inline(always)]
fn send(sock: &Sock, tuple: &Tuple, partial: bool) {
    let now_ns = kernel::now_ns();
    emit::detail(
        sock,
        tuple,
        KIND_OPEN,
        now_ns,
        count::RING_FULL_DETAIL,
        |head, numbers| {
            let last = sock.step(sock.path_len.wrapping_sub(1));
            if last.mono_ns() != 0 {
                head.span_ns = now_ns.saturating_sub(last.mono_ns());
            }
            let first = sock.step(0);
            if !partial && first.mono_ns() != 0 {
                let age_us = now_ns.saturating_sub(first.mono_ns()) / 1000;
                numbers[0] = age_us as u32;
                numbers[1] = (age_us >> 32) as u32;
            }
        },
    );
}

#[inline(always)]
fn is_open(sock: &Sock) -> bool {
    sock.role != ROLE_LISTENER
        && sock.path_len != 0
        && !sock.has_ended()
        && sock.life != DEAD
        && sock.conn != 0
}
