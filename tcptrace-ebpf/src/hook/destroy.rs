//! `tcp:tcp_destroy_sock`: a TCP socket is about to be freed.
//!
//! Prototype: `(struct sock *sk)`, unchanged from 5.10 to 7.3. Called by `tcp_v4_destroy_sock`
//! (for IPv6 as well) once per socket, long after its last transition if a process kept the
//! descriptor. The record lives exactly as long as the socket, so that a transition the first
//! program recorded is recognised by the second even when it is the last.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::{count, record::ROLE_LISTENER, tcp};

use crate::{
    accept,
    constants::off,
    counters, emit,
    filter::{self, Decision, Stage},
    kernel::{self, Object as _, Probed, Typed},
    maps::{self, SOCKS},
    phase, preempt, publish,
    sock::LIVE,
    tuple::Tuple,
};

#[btf_tracepoint(function = "tcp_destroy_sock")]
pub(crate) fn destroy(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    if phase::is_idle() {
        return 0;
    }
    let sk = Typed(ctx.arg::<*const u8>(0));
    let key = sk.address();
    let Some(pointer) = SOCKS.get_ptr_mut(key) else {
        return 0;
    };
    // SAFETY: a live record; nobody else has a reference to the socket any more.
    let sock = unsafe { &mut *pointer };

    // A time-wait socket has taken its place.
    let lives = sock.life == LIVE;
    if lives && sock.state() != tcp::CLOSE {
        sock.err = sk.read::<u32>(off!(sk_err));
        sock.shutdown = sk.read::<u8>(off!(sk_shutdown));
        if sock.role != ROLE_LISTENER {
            counters::read(sk, &mut sock.counters);
        }
    }
    filter::decide(Stage::End, sock);
    if filter::is_shown(sock) {
        if sock.tuple.whole == 0 {
            // The steps that would have brought it were hidden.
            let sport = || Probed(key).read(off!(inet_sport));
            sock.tuple = Tuple::read(sk, sock.role == ROLE_LISTENER, sport);
            if filter::decide(Stage::Tuple, sock) == Decision::Drop {
                publish::drop_record(key, sock);
                return 0;
            }
        }
        publish::finish(key, sock);
        if lives && sock.state() != tcp::CLOSE && sock.is_reported() {
            maps::count(count::UNSEEN, 1);
            let accepted = accept::before_record(sock, true);
            emit::deduced_close(sock, kernel::now_ns(), accepted, || true);
        }
    }
    publish::drop_record(key, sock);
    0
}
