//! `sock:inet_sock_set_state`: a TCP socket changes its state.
//!
//! Prototype: `(const struct sock *sk, const int oldstate, const int newstate)`, unchanged from
//! 5.10 to 7.3. Called by `inet_sk_state_store` just before `sk->sk_state` is written, in the
//! task that works on the socket or in a softirq, always under the socket's lock.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::btf_tracepoint, programs::BtfTracePointContext};
use aya_log_ebpf::debug;
use tcptrace_common::{
    config::PIN_TRACEPOINTS,
    count,
    layout::ABSENT,
    proto::accept::Progress,
    record::{
        KNOWN_NO_FIN, Owner, ROLE_CLIENT, ROLE_LISTENER, ROLE_SERVER, ROLE_UNKNOWN, SOURCE_CONNECT,
        SOURCE_LISTEN, SOURCE_LISTENER, SOURCE_UNKNOWN, Step,
    },
    tcp,
};

use crate::{
    constants::{config, off},
    counters, emit, ending,
    filter::{self, Decision, Stage},
    keeper,
    kernel::{self, Object as _, Probed, Typed, copy},
    listener,
    maps::{self, CURRENT, SOCKS},
    overlooked, owner, phase, preempt, process, publish,
    sock::{BY_KERNEL, JOINED, LIVE, NO_FASTOPEN, NOTHING, PARTIAL, Sock},
    timewait::{self, TimeWait},
    tuple::Tuple,
};

const IPPROTO_TCP: u16 = 6;
/// In `sk_flags`: the peer's FIN has come (`tcp_fin`, include/net/sock.h)
const SOCK_DONE: u64 = 1 << 1;

#[derive(Clone, Copy)]
struct Transition {
    sk: Typed,
    old: u8,
    new: u8,
}

impl Transition {
    #[inline(always)]
    fn of(ctx: &BtfTracePointContext) -> Self {
        Self {
            sk: Typed(ctx.arg::<*const u8>(0)),
            old: ctx.arg::<i32>(1) as u8 & 15,
            new: ctx.arg::<i32>(2) as u8 & 15,
        }
    }

    #[inline(always)]
    fn is_tcp(self) -> bool {
        self.sk.read::<u16>(off!(sk_protocol)) == IPPROTO_TCP
    }

    /// Tells this transition from any other this CPU may be in the middle of. The verifier
    /// lets a typed pointer be stored and compared, not calculated with.
    #[inline(always)]
    fn id(self) -> [u64; 2] {
        [self.sk.address(), u64::from(self.old << 4 | self.new)]
    }

    /// Where this CPU says which transition it is at: one place for sockets that a task has locked, one
    /// for those that a softirq has, which may interrupt the first but not each other. What overwrites
    /// a place nevertheless, [`record`] finds out by the socket's own record.
    #[inline(always)]
    fn current(self) -> Option<&'static mut [u64; 2]> {
        let pointer = CURRENT.get_ptr_mut(u32::from(owner::proven(self.sk)))?;
        // SAFETY: a live, aligned map value of this CPU, of which any words are a value.
        Some(unsafe { &mut *pointer })
    }

    /// The socket's life begins: it leaves `CLOSE`, or was cloned from a listener.
    #[inline(always)]
    fn is_birth(self) -> bool {
        self.old == tcp::CLOSE || (self.old == tcp::LISTEN && self.new == tcp::SYN_RECV)
    }
}

/// Records the transition, unless the kernel skips it: a softirq that interrupts this program
/// and changes a state finds it busy on this CPU (`prog->active`).
///
/// Inline in the function that the macro makes for the kernel, which would be a call more each time;
/// those below as well.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn set_state(ctx: BtfTracePointContext) -> i32 {
    let _pinned = preempt::in_tracepoint();
    let transition = Transition::of(&ctx);
    // As long as no socket of theirs is known, only a process asked for can begin one.
    if phase::is_idle() && (transition.old != tcp::CLOSE || !owner::is_wanted()) {
        return 0;
    }
    if !transition.is_tcp() {
        return 0;
    }
    if let Some(current) = transition.current() {
        *current = transition.id();
    }
    record(&ctx, transition, false);
    0
}

/// Attached after [`set_state`] and called for the same transitions: records those that one was
/// skipped for. A softirq finds it idle while [`set_state`] runs.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn set_state_fallback(ctx: BtfTracePointContext) -> i32 {
    fallback(&ctx, config!(pinned) & PIN_TRACEPOINTS == 0);
    0
}

/// Attached after [`set_state_fallback`] where a task can be preempted in a tracepoint: then one task
/// may stand still in [`set_state`], and another in the one that catches, while a third goes on.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn set_state_fallback_2(ctx: BtfTracePointContext) -> i32 {
    fallback(&ctx, false);
    0
}

/// Attached after [`set_state_fallback_2`], for when a third task stands still in that one.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub(crate) fn set_state_fallback_3(ctx: BtfTracePointContext) -> i32 {
    fallback(&ctx, true);
    0
}

/// Records what none of the programs before has. `last`: none comes after this one.
#[inline(always)]
fn fallback(ctx: &BtfTracePointContext, last: bool) {
    let transition = Transition::of(ctx);
    let Some(current) = transition.current() else {
        return;
    };
    let id = transition.id();
    if current[0] == id[0] && current[1] == id[1] {
        if last {
            // The same again is another socket's, at the same address.
            current[0] = 0;
        }
        return;
    }
    let _pinned = preempt::in_tracepoint();
    if transition.is_tcp() {
        if !last {
            *current = id;
        }
        record(ctx, transition, true);
    }
}

#[inline(always)]
fn record(ctx: &BtfTracePointContext, transition: Transition, fallback: bool) {
    let Transition { sk, old, new } = transition;
    // The end of an MPTCP subflow told twice (`mptcp_subflow_reset` before 6.3), not another life.
    if old == tcp::CLOSE && new == tcp::CLOSE {
        maps::count(count::FALLBACK, u64::from(fallback));
        return;
    }
    let key = sk.address();
    let now_ns = kernel::now_ns();
    // Most that begin have no record yet, which inserting it shows as well.
    let inserts = !fallback && config!(by_pid) == 0 && transition.is_birth() && !phase::is_ending();
    // A pointer, not an option: of one that is none the compiler leaves the pointer unset, and the verifier
    // lets nothing be copied that is.
    let mut known: *mut Sock = core::ptr::null_mut();
    if !inserts && let Some(pointer) = SOCKS.get_ptr_mut(key) {
        known = pointer;
    }

    if phase::is_ending() && (known.is_null() || transition.is_birth()) {
        if !known.is_null() {
            let former = known;
            // SAFETY: a live record, under this socket's lock.
            if unsafe { (*former).role } == ROLE_LISTENER {
                listener::end(key);
            }
            end_former(key);
        }
        return;
    }
    if fallback {
        // The first program may have recorded it and been followed, on this CPU, by a softirq's
        // transitions, so that `CURRENT` names one of those.
        if !known.is_null() {
            let sock = known;
            // SAFETY: a live record; only this socket's lock holder, us, changes its path.
            let sock = unsafe { &*sock };
            // It lives on in a time-wait socket, which is what the first program has recorded.
            let is_recorded =
                (sock.life != LIVE && new == tcp::CLOSE) || sock.has_stepped(old, new);
            if is_recorded && !is_of_another(sock, sk) {
                return;
            }
        }
        maps::count(count::FALLBACK, 1);
        // With `-p`, no record: the first program rejected it, or it was never wanted.
        if known.is_null() && config!(by_pid) != 0 && !transition.is_birth() {
            return;
        }
    }

    // An accept hook has found that nobody wants it, and had not this socket's lock.
    if !transition.is_birth() && !known.is_null() {
        // SAFETY: a live record, under this socket's lock.
        let sock = unsafe { &mut *known };
        if filter::is_dropped(sock) {
            publish::drop_record(key, sock);
            return;
        }
    }

    let sock = if transition.is_birth() {
        birth(key, transition, now_ns)
    } else {
        live(ctx, key, transition, now_ns, known)
    };
    let Some(sock) = sock else { return };
    // SAFETY: a live record; this program holds the socket's lock, and fields that others write
    // are theirs alone.
    let sock = unsafe { &mut *sock };
    if !transition.is_birth() {
        overlooked::look(sk, sock, now_ns);
        if filter::is_dropped(sock) {
            publish::drop_record(key, sock);
            return;
        }
    }
    advance(key, sock, transition, now_ns);
}

/// Removes the record of a former life of this socket, or of another at its address. Seldom needed, so
/// one copy of it is enough.
#[inline(never)]
fn end_former(key: u64) {
    if let Some(former) = SOCKS.get_ptr_mut(key) {
        // SAFETY: a live record, under this socket's lock.
        publish::replaced(key, unsafe { &mut *former });
        let _gone = SOCKS.remove(key);
    }
}

/// An empty record under this address, whatever stood there before; none if the map is full.
#[inline(always)]
fn fresh(key: u64) -> Option<*mut Sock> {
    if SOCKS.insert(key, &NOTHING, u64::from(BPF_NOEXIST)).is_err() {
        end_former(key);
        if SOCKS.insert(key, &NOTHING, 0).is_err() {
            maps::count(count::MAP_FULL, 1);
            // It is told at once.
            emit::wake_agent();
            return None;
        }
        if let Some(sock) = SOCKS.get_ptr_mut(key) {
            let former = Probed(key).read(off!(inet_sport));
            // SAFETY: a live record, just made under this socket's lock.
            unsafe { (*sock).former_sport = former };
        }
    }
    phase::activate();
    SOCKS.get_ptr_mut(key)
}

/// Makes the record of a new life, whatever stood under this address before.
#[inline(always)]
fn birth(key: u64, transition: Transition, now_ns: u64) -> Option<*mut Sock> {
    let Transition { sk, old, new } = transition;
    // A clone has the state its listener has by then: `CLOSE` if it is closing.
    let child = old == tcp::LISTEN || new == tcp::SYN_RECV;
    let (address, parent) = if child { listener_of(sk) } else { (0, None) };
    let role = match new {
        _ if child => ROLE_SERVER,
        tcp::LISTEN => ROLE_LISTENER,
        tcp::SYN_SENT => ROLE_CLIENT,
        _ => ROLE_UNKNOWN,
    };
    let mut opener = Owner::NONE;
    if !child && role != ROLE_UNKNOWN && owner::proven(sk) && owner::is_of_a_process(sk) {
        owner::current(&mut opener);
    }
    let netns_taken = config!(by_netns) == 0 || filter::netns::takes(netns_of(sk));
    if !netns_taken || !filter::admits(role, &opener, parent.is_some()) {
        end_former(key);
        return None;
    }

    let pointer = fresh(key)?;
    // SAFETY: a live record, just made under this socket's lock.
    let sock = unsafe { &mut *pointer };
    sock.origin = old;
    sock.role = role;
    if child {
        if let Some(listener) = parent {
            sock.listener = address;
            if off!(icsk_fastopen_max) != ABSENT
                && Probed(address).read::<u32>(off!(icsk_fastopen_max)) == 0
            {
                sock.flags |= NO_FASTOPEN;
            }
            // SAFETY: a live record: a listener outlives the clone made of it, because the
            // kernel holds a reference to it while it clones. Whoever takes its owner away writes the same.
            let listener = unsafe { &mut *listener };
            keeper::forget_gone(listener);
            // The same, by `listener_of`.
            sock.netns = listener.netns;
            copy(&mut sock.owners[0], &listener.owners[0]);
            sock.processes[0] = listener.processes[0];
            if sock.owners[0].tgid != 0 {
                sock.sources[0] = SOURCE_LISTENER;
            }
        }
    } else {
        sock.sources[0] = match new {
            tcp::LISTEN => SOURCE_LISTEN,
            tcp::SYN_SENT => SOURCE_CONNECT,
            _ => SOURCE_UNKNOWN,
        };
        copy(&mut sock.owners[0], &opener);
        sock.processes[0] = process::which(opener.tgid, owner::leader());
        if sock.owners[0].tgid == 0 {
            sock.sources[0] = SOURCE_UNKNOWN;
        }
        ending::before(sk, sock);
        sock.conn = kernel::cookie(sk, now_ns);
        if new == tcp::LISTEN {
            listener::begin(key, now_ns);
            keeper::begin(&opener);
        }
    }
    filter::decide(Stage::Birth { child }, sock);
    Some(pointer)
}

/// The listener a child was cloned from: where it would be, and its record if it is there.
///
/// A clone starts as a copy of its listener. `tsorted_sent_queue` of the listener is empty, so it
/// points to itself; `tcp_create_openreq_child` resets it in the child only after this hook. The
/// address it leads to is believed only if it is a listener of ours.
#[inline(always)]
fn listener_of(child: Typed) -> (u64, Option<*mut Sock>) {
    let queue: u64 = Probed(child.address()).read(off!(tp_tsorted_sent_queue));
    let listener = queue - u64::from(off!(tp_tsorted_sent_queue));
    let Some(pointer) = SOCKS.get_ptr_mut(listener) else {
        return (listener, None);
    };
    // SAFETY: a live record.
    let sock = unsafe { &*pointer };
    // Its port may be another than the child's: BPF can choose a listener (`sk_lookup`), and so can a firewall
    // (TPROXY).
    let same = sock.state() == tcp::LISTEN && sock.netns == netns_of(child);
    (listener, same.then_some(pointer))
}

#[inline(always)]
fn netns_of(sk: Typed) -> u32 {
    sk.probe(off!(sk_net)).read(off!(net_inum))
}

/// Whether a record is of an earlier socket at this address: both its end and the beginning of this
/// one may have been hidden.
#[inline(always)]
fn is_of_another(sock: &Sock, sk: Typed) -> bool {
    let cookie: u64 = sk.read(off!(sk_cookie));
    config!(cookie_helper) != 0 && sock.conn != 0 && cookie != 0 && cookie != sock.conn
}

/// The record of a socket in mid-life, made now if its beginning went unseen.
#[inline(always)]
fn live(
    ctx: &BtfTracePointContext,
    key: u64,
    transition: Transition,
    now_ns: u64,
    known: *mut Sock,
) -> Option<*mut Sock> {
    let Transition { sk, old, new: _ } = transition;
    if !known.is_null() {
        let pointer = known;
        // SAFETY: a live record; this program holds the socket's lock.
        let sock = unsafe { &mut *pointer };
        let another = is_of_another(sock, sk);
        if sock.state() == old && !another {
            return Some(pointer);
        }
        // Out of step: either steps went unseen (before attach, or counted as recursion), or the
        // record is of an earlier socket at this address, whose end went unseen. The cookie tells.
        if !another
            && (sock.tuple.whole == 0 || sock.conn == 0 || sock.conn == kernel::cookie(sk, now_ns))
        {
            maps::count(
                count::UNSEEN,
                u64::from(filter::is_shown(sock) && sock.is_reported()),
            );
            // Found in this state: time 0, and never told of.
            let told = sock.sent == sock.path_len;
            sock.push(Step::new(0, old));
            if told {
                sock.sent = sock.path_len;
            } else {
                sock.unseen_steps += 1;
            }
            return Some(pointer);
        }
        debug!(
            ctx,
            "record of connection {:x} replaced: another has its address", sock.conn
        );
    }
    let role = if old == tcp::LISTEN {
        ROLE_LISTENER
    } else {
        ROLE_UNKNOWN
    };
    let netns_taken = config!(by_netns) == 0 || filter::netns::takes(netns_of(sk));
    if !netns_taken || !filter::admits_midway(role) {
        return None;
    }
    let pointer = fresh(key)?;
    // SAFETY: a live record, just made under this socket's lock.
    let sock = unsafe { &mut *pointer };
    sock.flags = PARTIAL;
    sock.origin = old;
    sock.role = role;
    sock.conn = kernel::cookie(sk, now_ns);
    sock.push(Step::new(0, old));
    sock.sent = 1;
    sock.accept = Progress::OPEN.0;
    filter::decide(Stage::Midway, sock);
    debug!(
        ctx,
        "connection {:x} first seen in state {}", sock.conn, old
    );
    Some(pointer)
}

/// Adds the step and shows what can be shown.
#[inline(always)]
fn advance(key: u64, sock: &mut Sock, transition: Transition, now_ns: u64) {
    let Transition { sk, old, new } = transition;
    let (old, new) = (
        kernel::opaque_scalar(old) & 15,
        kernel::opaque_scalar(new) & 15,
    );
    let ends = new == tcp::CLOSE;

    // The kernel reports `CLOSE` as well where a time-wait socket takes this one's place.
    let successor = if ends && (old == tcp::FIN_WAIT2 || old == tcp::CLOSING) {
        TimeWait::in_place_of(sk)
    } else {
        None
    };
    let waits = successor.is_some_and(timewait::waits);
    if ends {
        ending::read(sk, sock, old);
        if sock.is_owned(sock.slot) == 0 {
            maps::count(count::OVERLOOKED, 1);
        }
    }
    let closes =
        new == tcp::FIN_WAIT1 || new == tcp::LAST_ACK || (ends && ending::is_closed(sock, old));
    if closes && sock.closer == 0 && !sock.was_closed_before() && owner::proven(sk) {
        let tgid = owner::current_tgid();
        let others = tgid != sock.owner().tgid && owner::is_taken_away(sk);
        sock.closer = if tgid == 0 || others { BY_KERNEL } else { tgid };
        if sock.closer != BY_KERNEL {
            sock.counters.act = ending::act(sk, new);
        }
    }
    let dropped = old == tcp::FIN_WAIT2 && ends && successor.is_none();
    if dropped && sk.read::<u64>(off!(sk_flags)) & SOCK_DONE == 0 {
        sock.counters.known |= KNOWN_NO_FIN;
    }
    if !waits {
        let state = if successor.is_some() {
            tcp::TIME_WAIT
        } else {
            new
        };
        // SAFETY: an empty instruction: it keeps the compiler from moving the step, which an accept hook
        // on another CPU may send at once, before what is to be sent with it.
        unsafe { core::arch::asm!("") };
        sock.push(Step::new(now_ns, state));
    }

    if sock.tuple.whole == 0 {
        if sock.netns == 0 {
            sock.netns = netns_of(sk);
        }
        let listening = sock.role == ROLE_LISTENER;
        // Only a closing socket's `inet_sport` is this life's, unless it is still that of the life before:
        // there was no port left for this one.
        let former = sock.former_sport;
        sock.tuple = Tuple::read(sk, listening, || {
            let sport: u16 = if ends {
                Probed(key).read(off!(inet_sport))
            } else {
                0
            };
            if sport == former { 0 } else { sport }
        });
        if sock.tuple.whole != 0 || ends {
            if sock.conn == 0 {
                sock.conn = kernel::cookie(sk, now_ns);
            }
            if filter::decide(Stage::Tuple, sock) == Decision::Drop {
                publish::drop_record(key, sock);
                return;
            }
        }
    } else if sock.conn == 0 {
        // Found at start, without its cookie, and in a namespace that could not be entered.
        sock.conn = kernel::cookie(sk, now_ns);
    }
    // By the four-tuple, which a child has only now before 6.16.
    if new == tcp::ESTABLISHED {
        counters::handshake(sk, sock, now_ns);
        if sock.role == ROLE_SERVER && owner::has_joined(sk) {
            sock.owners[0].tgid = 0;
            sock.sources[0] = SOURCE_UNKNOWN;
            // Nobody accepts it: it is in no queue.
            sock.listener = 0;
            sock.overlooked = JOINED;
        }
    }
    if config!(slower_ns) != 0 {
        let connects = new == tcp::SYN_SENT && sock.role == ROLE_CLIENT;
        let is_queued = new == tcp::ESTABLISHED && sock.role == ROLE_SERVER && sock.accept_ns == 0;
        if connects || is_queued {
            maps::wait(key, now_ns);
        }
    }
    if filter::outcome::is_on()
        && filter::decide(Stage::Step { new, now_ns }, sock) == Decision::Drop
    {
        publish::drop_record(key, sock);
        return;
    }
    if waits {
        if successor.is_some_and(|successor| timewait::inherit(successor, sock, now_ns)) {
            return;
        }
        // No room to wait: as reported.
        sock.counters.known |= KNOWN_NO_FIN;
        sock.push(Step::new(now_ns, new));
    }
    publish::publish(key, sock, now_ns);
    if let Some(successor) = successor {
        timewait::replace(successor, sock);
    }
}
