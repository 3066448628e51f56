//! Stale records: of a socket whose end no program saw.
//!
//! The kernel skips a program that is already running on the CPU. If it skips all of them at the last step of
//! a socket, the record still says that the socket lives. The kernel's memory does not: the memory of a TCP
//! socket stays that of a TCP socket (`SLAB_TYPESAFE_BY_RCU` of `tcp_prot`, `net/ipv4/tcp_ipv4.c`), and the next
//! one begins there without a cookie (`sk_prot_alloc`, `sk_clone_lock`). So this reads the socket's state and
//! cookie, and compares them with the record.
//!
//! No event calls these functions: the agent goes through all records now and then, by `hook::stale`.

use core::ptr::read_volatile;

use tcptrace_common::{
    config::{EMIT_TRANSITION, SOCK_WORDS, TIME_WAIT_RECORD_WORDS},
    count,
    record::{FLAG_INFERRED, ROLE_LISTENER},
    tcp,
};

use crate::{
    accept,
    atomic::exchange_if,
    constants::{config, off},
    emit,
    filter::{self, Decision},
    kernel::{Object as _, Probed},
    listener,
    maps::{self, SOCKS},
    publish,
    sock::{IN_TIME_WAIT, LIVE, Sock, TimeWaitRecord},
    timewait::{self, TimeWait},
};

const _: () = assert!(size_of::<Sock>() == SOCK_WORDS * 8);
const _: () = assert!(size_of::<TimeWaitRecord>() == TIME_WAIT_RECORD_WORDS * 8);

/// Longer than it takes from a socket's first transition until the kernel writes its new state: a task
/// may be preempted in between.
const BIRTH_NS: u64 = 1_000_000_000;

/// The id of a record whose end has been told. The kernel counts its cookies up from 0, and down from there
/// where one is asked for in the middle of another (`gen_cookie_next`): none gets this far.
const REPORTED: u64 = 1 << 63;

/// The record at this address, and its connection, if the kernel's memory says that the connection is
/// over and the record does not. Needs cookies and exchanges.
#[inline(always)]
fn stale_socket(key: u64, now_ns: u64) -> Option<(*mut Sock, u64)> {
    if config!(exchanges) == 0 || config!(cookie_helper) == 0 {
        return None;
    }
    let pointer = SOCKS.get_ptr_mut(key)?;
    // SAFETY: a live record.
    let id = unsafe { &raw mut (*pointer).conn };
    // SAFETY: as above.
    let life = unsafe { &raw const (*pointer).life };
    // SAFETY: a live word.
    let conn = unsafe { read_volatile(id) };
    if conn == 0 || conn == REPORTED {
        return None;
    }
    // SAFETY: a live field. Others are not kept under the address of a socket.
    if unsafe { read_volatile(life) } != LIVE {
        return None;
    }
    let sk = Probed(key);
    // Its tracepoint comes before the state is written: who reads `CLOSE` finds it in the record as
    // well, if any program saw it.
    let closed = sk.read::<u8>(off!(sk_state)) == tcp::CLOSE;
    let another = sk.read::<u64>(off!(sk_cookie)) != conn;
    // SAFETY: a live word. A full barrier, which changes nothing: what is read below is not older.
    if unsafe { exchange_if(id, conn, conn) } != conn {
        return None;
    }
    // SAFETY: a live record, only read. If it is replaced meanwhile, `claim` finds another's id.
    let sock = unsafe { &*pointer };
    let begins = sock.path_len == 1 && now_ns.saturating_sub(sock.step(0).mono_ns()) < BIRTH_NS;
    let says_so = sock.life == LIVE && sock.state() != tcp::CLOSE;
    (says_so && (another || (closed && !begins))).then_some((pointer, conn))
}

/// The record under this key of a connection that waited for its peer's FIN in a time-wait socket which has
/// it, or is no more, and that one.
#[inline(always)]
fn waits_in_vain(key: u64) -> Option<(TimeWait, *const Sock)> {
    let pointer = SOCKS.get_ptr(key)?;
    // SAFETY: a live record; only read.
    let sock = unsafe { &*pointer };
    if sock.life != IN_TIME_WAIT {
        return None;
    }
    timewait::moved_is_stale(key, sock).map(|tw| (tw, pointer))
}

/// Whether the socket that the record at this address is of has ended unseen.
#[inline(always)]
pub(crate) fn is_stale_socket(key: u64, now_ns: u64) -> bool {
    stale_socket(key, now_ns).is_some() || waits_in_vain(key).is_some()
}

/// Whether the pair with this key has left `TIME_WAIT`, and nobody has told. `kind`: only one whose timer
/// was seen to stop (`STOPPED_TIME_WAITS`), only another, or any.
#[inline(always)]
pub(crate) fn is_stale_pair(key: u64, kind: u64, now_ns: u64) -> bool {
    timewait::unreported_end(key, kind, now_ns).is_some()
}

/// Tells of the end of a pair that has left `TIME_WAIT`, found at `now_ns`. `kind`: as above. When its timer
/// was last seen to stop it may have been set anew: also that moment is not certain.
#[inline(always)]
pub(crate) fn report_pair(key: u64, kind: u64, now_ns: u64) {
    if let Some(pair) = timewait::unreported_end(key, kind, now_ns) {
        // SAFETY: a live record; what is read of one that another CPU removes is thrown away.
        let pair = unsafe { &*pair };
        let stopped_ns = pair.ended_ns;
        let at_ns = if stopped_ns != 0 { stopped_ns } else { now_ns };
        timewait::report_end(key, pair, at_ns, FLAG_INFERRED);
    }
}

/// Tells of the end of a socket that has ended unseen, found at `now_ns`, and counts what of it nobody
/// will tell.
#[inline(always)]
pub(crate) fn report_socket(key: u64, now_ns: u64) {
    if let Some((tw, sock)) = waits_in_vain(key) {
        // SAFETY: a live record; what is read of one that another CPU removes is thrown away.
        timewait::report_moved(tw, unsafe { &*sock }, now_ns);
        return;
    }
    let Some((pointer, conn)) = stale_socket(key, now_ns) else {
        return;
    };
    // SAFETY: a live record, only read. If it is replaced meanwhile, `claim` finds another's id.
    let sock = unsafe { &*pointer };
    let untold = sock
        .path_len
        .wrapping_sub(sock.sent)
        .wrapping_sub(sock.unseen_steps);
    let wanted = sock.is_reported() && filter::owner_at_end(sock) == Decision::Show;
    // SAFETY: a live record.
    let id = unsafe { &raw mut (*pointer).conn };
    let claim = || {
        // SAFETY: a live word. The id is no other's: with it in its place, the record is still this one.
        unsafe { exchange_if(id, conn, REPORTED) == conn }
    };
    // Whether it failed, or how long it took, nobody knows: then it is counted only.
    let ours = if wanted && !filter::outcome::is_on() && sock.tuple.whole != 0 {
        emit::deduced_close(sock, now_ns, accept::of(sock), claim)
    } else {
        claim()
    };
    if !ours {
        return;
    }
    maps::count(count::UNSEEN, u64::from(wanted));
    let flushed = publish::unlist(key, sock);
    if wanted && config!(emit) & EMIT_TRANSITION != 0 {
        let untold = untold.wrapping_sub(u8::from(flushed));
        maps::count(count::UNTOLD, u64::from(untold));
    }
    if sock.role == ROLE_LISTENER {
        listener::end(key);
    }
    // Unless somebody was given its memory in this moment, and a record.
    // SAFETY: a live record.
    let still = SOCKS.get_ptr(key).map(|pointer| unsafe { (*pointer).conn });
    if still == Some(REPORTED) {
        let _gone = SOCKS.remove(key);
    }
}
