//! `sock:inet_sock_set_state`, before all other programs: who begins to connect or to listen, and who ends a
//! connection that was another's.
//!
//! A program of its own: what it takes to put paths together, the verifier would follow anew from each place
//! of the others. A process has not said before what it is, and may be gone when anybody has time to look.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};
use tcptrace_common::tcp;

use crate::{
    filter, handover,
    kernel::Typed,
    owner, preempt,
    process::{self, Place},
};

/// Tells what a process is that comes to own a socket, if the user asked for its connections.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn introduce(ctx: BtfTracePointContext) -> i32 {
    let [old, new] = [ctx.arg::<i32>(1) as u8, ctx.arg::<i32>(2) as u8];
    let begins = old == tcp::CLOSE && (new == tcp::SYN_SENT || new == tcp::LISTEN);
    let ends = new == tcp::FIN_WAIT1 || new == tcp::LAST_ACK || new == tcp::CLOSE;
    if !begins && !ends {
        return 0;
    }
    let sk = Typed(ctx.arg::<*const u8>(0));
    if !owner::proven(sk) {
        return 0;
    }
    let _pinned = preempt::in_tracepoint();
    if ends {
        handover::at_the_end(sk, old, new);
        return 0;
    }
    process::look(owner::current_tgid(), owner::leader(), Place::Introduce);
    if !filter::owner::is_on() || owner::is_wanted() {
        owner::introduce(Place::Introduce);
    }
    0
}
