//! `tcp:tcp_destroy_sock`: a TCP socket is about to be freed.
//!
//! Prototype: `(struct sock *sk)`, unchanged from 5.10 to 7.3. Called by `tcp_v4_destroy_sock`
//! (for IPv6 as well) once per socket, long after its last transition if a process kept the
//! descriptor. The record lives exactly as long as the socket, so that a transition the first
//! program recorded is recognised by the second even when it is the last.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{
    count,
    record::{ROLE_LISTENER, ROLE_SERVER},
    tcp,
};

use crate::{
    accept,
    constants::{config, off},
    counters, emit, filter,
    kernel::{self, Object as _, Probed, Typed},
    maps::{self, SOCKS},
    preempt, publish,
    sock::LIVES,
    tuple::Tuple,
};

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub(crate) fn destroy(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    if filter::is_idle() {
        return 0;
    }
    let sk = Typed(ctx.arg::<*const u8>(0));
    let key = sk.address();
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: a live record; nobody else has a reference to the socket any more.
    let sock = unsafe { &mut *pointer };

    // Never accepted: the listener's owner is the only owner it had.
    if config!(by_pid) != 0
        && sock.selected == 0
        && sock.slot == 0
        && sock.role == ROLE_SERVER
        && filter::takes_process(sock.owners[0].tgid)
    {
        sock.selected = 1;
    }
    // A time-wait socket has taken its place.
    let lives = sock.life == LIVES;
    if lives && sock.state() != tcp::CLOSE {
        sock.err = sk.read::<u32>(off!(sk_err));
        sock.shutdown = sk.read::<u8>(off!(sk_shutdown));
        if sock.role != ROLE_LISTENER {
            counters::read(sk, &mut sock.counters);
        }
    }
    if config!(failed) != 0 {
        sock.verdict = 1;
    }
    if sock.is_shown() {
        if sock.tuple.whole == 0 {
            // The steps that would have brought it were hidden.
            let sport = || Probed(key).read(off!(inet_sport));
            sock.tuple = Tuple::read(sk, sock.role == ROLE_LISTENER, sport);
            if !filter::takes(&sock.tuple) {
                publish::forget(key, sock);
                return 0;
            }
        }
        publish::finish(key, sock);
        if lives && sock.state() != tcp::CLOSE && sock.is_told() {
            maps::count(count::UNSEEN, 1);
            let accepted = accept::before_record(sock, true);
            emit::deduced_close(sock, kernel::now_ns(), accepted, || true);
        }
    }
    publish::forget(key, sock);
    0
}
