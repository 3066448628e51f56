//! What becomes of a connection after its socket: the time-wait socket.
//!
//! `tcp_time_wait` (`net/ipv4/tcp_minisocks.c`) puts a small `struct inet_timewait_sock` in the
//! socket's place and lets the socket report `CLOSE`. The small one is found in the kernel's own
//! hash table, where it is before that report. It may still wait for the peer's FIN, which its
//! `tw_substate` tells: then the connection is in `FIN_WAIT2`, and its record moves on with it.
//!
//! Several hooks may learn of one event on different CPUs. Each reserves its place in the ring
//! first, then removes the record; who succeeds is the one who tells.
//!
//! The memory of one that has ended is soon another's, often before anybody has looked. So the key of its
//! record is not its address alone, see [`TimeWait::key`].

mod socket;

use core::ptr::read_volatile;

use aya_ebpf::bindings::BPF_NOEXIST;
use tcptrace_common::{
    config::{ALL_TIME_WAITS, EMIT_TRANSITION, STOPPED_TIME_WAITS, TIME_WAIT_BY_TIMER},
    count,
    map_index::{TIME_WAIT_HANDLER, TIME_WAIT_MODE},
    record::{FLAG_INFERRED, FLAG_ROLE_INFERRED, KNOWN_EXPIRED, Step},
    tcp,
};

use crate::{
    atomic::exchange_if,
    constants::{config, off},
    emit, filter,
    kernel::{self, Object as _, copy},
    maps::{self, POLL_QUEUE, SOCKS, TIME_WAIT, TIME_WAITS, stop_of},
    sock::{DEAD, IN_TIME_WAIT, LIVE, PARTIAL, Sock, TimeWaitRecord},
    tuple::Tuple,
};

pub(crate) use socket::{TimeWait, begin};

/// Longer than a timer is between `timer_cancel` and being off, or set anew, with interrupts disabled:
/// also on a virtual CPU that is taken away in between.
const STOPPING_NS: u64 = 50_000_000;

/// Keeps what the end of `TIME_WAIT` must say of a socket that has just reported `CLOSE`, and whose
/// last step is told.
#[inline(always)]
pub(crate) fn replace(tw: TimeWait, sock: &mut Sock) {
    learn_handler(tw);
    if sock.state() == tcp::TIME_WAIT {
        sock.life = DEAD;
        if filter::is_shown(sock) && mode() != 0 {
            let index = sock.path_len.wrapping_sub(1);
            insert_pair(tw, &pair_of(tw, sock, index, sock.step(index)));
        }
    }
}

/// Moves the record of a socket that has just reported `CLOSE` to the time-wait socket in its place,
/// which waits for the peer's FIN. Returns whether there was room.
#[inline(always)]
pub(crate) fn inherit(tw: TimeWait, sock: &mut Sock, now_ns: u64) -> bool {
    learn_handler(tw);
    sock.life = IN_TIME_WAIT;
    sock.seen_ns = 0;
    sock.listener = tw.address;
    let key = tw.key();
    let mut inserted = SOCKS.insert(key, &*sock, u64::from(BPF_NOEXIST)).is_ok();
    if !inserted {
        if let Some(former) = waiting(tw) {
            // SAFETY: a live record; only read. Another's, whose end nobody has told of yet: its memory was
            // given away before somebody looked.
            never_finished(tw, unsafe { &*former }, now_ns, FLAG_INFERRED);
        }
        inserted = SOCKS.insert(key, &*sock, 0).is_ok();
    }
    sock.life = LIVE;
    if !inserted {
        return false;
    }
    sock.life = DEAD;
    sock.sent = sock.path_len;
    if mode() == TIME_WAIT_BY_TIMER {
        poll_from_now(tw);
    }
    // What happened to it on another CPU before it had its record, nobody told: it may have ended, or
    // its FIN may have come.
    let runs = tw.is_running(sock.tuple.lport, sock.tuple.rport);
    if (!runs || !tw.waits_for_fin())
        && let Some(moved) = waiting(tw)
    {
        // SAFETY: a live record; only read.
        let moved = unsafe { &*moved };
        if runs {
            fin(tw, moved, now_ns, FLAG_INFERRED);
        } else {
            never_finished(tw, moved, now_ns, FLAG_INFERRED);
        }
    }
    true
}

/// Whether this socket's connection goes on in a time-wait socket that waits for the peer's FIN, and
/// somebody will tell when it comes.
#[inline(always)]
pub(crate) fn waits(tw: TimeWait) -> bool {
    tw.waits_for_fin() && mode() != 0
}

/// How the ends of time-wait sockets are learnt.
#[inline(always)]
fn mode() -> u64 {
    TIME_WAIT.get(TIME_WAIT_MODE).map_or(0, |mode| *mode)
}

#[inline(always)]
fn pair_of(tw: TimeWait, sock: &Sock, seq: u8, entered: Step) -> TimeWaitRecord {
    let slot = usize::from(sock.slot & 1);
    let mut pair = TimeWaitRecord {
        conn: sock.conn,
        since_ns: entered.mono_ns(),
        ended_ns: 0,
        tw: tw.address,
        owner: tcptrace_common::record::Owner::NONE,
        tuple: Tuple::EMPTY,
        process: sock.processes[slot],
        reserved: 0,
        netns: sock.netns,
        flags: sock.record_flags() & (PARTIAL | FLAG_ROLE_INFERRED),
        role: sock.apparent_role(),
        source: sock.sources[slot],
        seq: seq.wrapping_add(1),
    };
    copy(&mut pair.tuple, &sock.tuple);
    copy(&mut pair.owner, &sock.owners[slot]);
    let owned = sock.is_owned(sock.slot);
    pair.owner.tgid *= u32::from(owned);
    pair.source *= owned;
    pair
}

/// Keeps what the end of `TIME_WAIT` must say.
#[inline(always)]
fn insert_pair(tw: TimeWait, pair: &TimeWaitRecord) {
    // With `--failed` only the agent knows whether it was shown; what gets here has not failed.
    if config!(emit) & EMIT_TRANSITION == 0 || config!(failed) != 0 {
        return;
    }
    let key = tw.key();
    if TIME_WAITS
        .insert(key, pair, u64::from(BPF_NOEXIST))
        .is_err()
    {
        if let Some(former) = TIME_WAITS.get_ptr(key) {
            // SAFETY: a live record. Another's, whose end nobody has told of yet.
            let former = unsafe { &*former };
            let (at_ns, inferred) = if former.ended_ns == 0 {
                (pair.since_ns, FLAG_INFERRED)
            } else {
                (former.ended_ns, 0)
            };
            report_end(key, former, at_ns, inferred);
        }
        if TIME_WAITS.insert(key, pair, 0).is_err() {
            maps::count(count::PAIRS_FULL, 1);
            emit::wake_agent();
            return;
        }
    }
    // It may have ended on another CPU, where nothing was known of it.
    if !tw.is_pending() {
        time_wait_ended(tw, kernel::now_ns(), FLAG_INFERRED);
    }
}

/// Reports the end of the pair with this key, if its record can still be removed: who removes it has claimed the
/// end. The record in the ring has its place by then.
#[inline(always)]
pub(crate) fn report_end(key: u64, pair: &TimeWaitRecord, at_ns: u64, inferred: u8) {
    emit::time_wait_ended(pair, at_ns, inferred, || TIME_WAITS.remove(key).is_ok());
}

#[inline(always)]
fn time_wait_ended(tw: TimeWait, now_ns: u64, inferred: u8) {
    let key = tw.key();
    if let Some(pair) = TIME_WAITS.get_ptr(key) {
        // SAFETY: a live record; what is read of one that another CPU removes is thrown away.
        report_end(key, unsafe { &*pair }, now_ns, inferred);
    }
}

/// The record of a connection that waits in this time-wait socket for its peer's FIN.
#[inline(always)]
fn waiting(tw: TimeWait) -> Option<*mut Sock> {
    let pointer = SOCKS.get_ptr_mut(tw.key())?;
    // SAFETY: a live record.
    (unsafe { (*pointer).life } == IN_TIME_WAIT).then_some(pointer)
}

/// The peer's FIN has come: `TIME_WAIT` from `now_ns` on.
#[inline(always)]
fn fin(tw: TimeWait, sock: &Sock, now_ns: u64, flags: u8) {
    let key = tw.key();
    let step = Step::new(now_ns, tcp::TIME_WAIT);
    let pair = pair_of(tw, sock, sock.path_len, step);
    let shown = filter::is_shown(sock);
    if emit::moved(sock, step, flags, 0, || SOCKS.remove(key).is_ok()) && shown {
        insert_pair(tw, &pair);
    }
}

/// A time-wait socket's timer was set again, as it is when a segment comes.
#[inline(always)]
pub(crate) fn rescheduled(tw: TimeWait, now_ns: u64) {
    if let Some(sock) = waiting(tw)
        && !tw.waits_for_fin()
    {
        // SAFETY: a live record; only read.
        fin(tw, unsafe { &*sock }, now_ns, 0);
    }
}

/// A time-wait socket is no more.
#[inline(always)]
pub(crate) fn ended(tw: TimeWait, now_ns: u64) {
    let Some(sock) = waiting(tw) else {
        time_wait_ended(tw, now_ns, 0);
        return;
    };
    // SAFETY: a live record; only read.
    let sock = unsafe { &*sock };
    if tw.waits_for_fin() {
        never_finished(tw, sock, now_ns, 0);
    } else {
        // `insert_pair` sees that its timer has stopped, and tells of the end as well.
        late_fin(tw, sock, now_ns);
    }
}

/// It ended without the peer's FIN: after `tcp_fin_timeout`, by an RST, or with its namespace. When its timer was
/// stopped, if that was seen; otherwise it is found at `now_ns`. A function of its own: one copy of it is enough.
#[inline(never)]
pub(crate) fn never_finished(tw: TimeWait, sock: &Sock, now_ns: u64, flags: u8) {
    // SAFETY: a live word of the record.
    let stopped_ns = unsafe { read_volatile(&raw const sock.seen_ns) };
    let (at_ns, known) = if stopped_ns == 0 {
        (now_ns, why(tw, sock))
    } else {
        (stopped_ns, sock.known_at_stop)
    };
    let step = Step::new(at_ns, tcp::CLOSE);
    emit::moved(sock, step, flags, known, || SOCKS.remove(tw.key()).is_ok());
}

/// Why it ends without the peer's FIN, if it does now: `KNOWN_EXPIRED`, or 0. Before its time an RST of the
/// peer's may have ended it, or somebody may have destroyed it (`ss -K`), and nothing tells which.
#[inline(always)]
fn why(tw: TimeWait, sock: &Sock) -> u8 {
    if !tw.is_there(sock.tuple.lport, sock.tuple.rport) {
        // What is there now says nothing of it.
        return 0;
    }
    if tw.is_due() { KNOWN_EXPIRED } else { 0 }
}

/// Puts a time-wait socket on the list of those that `hook::time_wait::poll` looks at. Without room there,
/// its FIN or its end shows when its timer stops.
#[inline(always)]
fn poll_from_now(tw: TimeWait) {
    if enqueue_poll(tw) {
        maps::count(count::POLL_ADDED, 1);
        emit::wake_agent();
    }
}

/// The same, for one that was just taken off.
#[inline(always)]
fn enqueue_poll(tw: TimeWait) -> bool {
    POLL_QUEUE.push(&[tw.address, tw.cookie], 0).is_ok()
}

#[inline(always)]
fn learn_handler(tw: TimeWait) {
    if let Some(handler) = TIME_WAIT.get_ptr_mut(TIME_WAIT_HANDLER) {
        // SAFETY: a live, aligned map value; whoever writes it writes the same.
        let handler = unsafe { &mut *handler };
        if *handler == 0 {
            *handler = tw.timer().read(off!(timer_function));
        }
    }
}

/// A time-wait socket's timer is being stopped: for good, or to be set anew, which shows only
/// afterwards.
#[inline(always)]
pub(crate) fn stopped(tw: TimeWait, now_ns: u64) {
    let key = tw.key();
    if let Some(pointer) = waiting(tw) {
        // SAFETY: a live record; of `seen_ns`, see `after_stop`.
        let sock = unsafe { &mut *pointer };
        if !tw.is_there(sock.tuple.lport, sock.tuple.rport) {
            // Another's, at the same address, whose end nobody has told of yet.
            never_finished(tw, sock, now_ns, FLAG_INFERRED);
        } else if tw.waits_for_fin() {
            // Its memory may be another's before that is decided.
            sock.known_at_stop = why(tw, sock);
            sock.seen_ns = now_ns;
            record_stop(key, now_ns);
            return;
        } else {
            // It came a while ago, and did not stop the timer, if that is stopped for good now.
            let at_ns = if tw.is_final(now_ns) {
                tw.fin_ns(entered_ns(sock), now_ns)
            } else {
                now_ns
            };
            fin(tw, sock, at_ns, FLAG_INFERRED);
        }
    }
    if let Some(pointer) = TIME_WAITS.get_ptr_mut(key) {
        // SAFETY: a live record; of `ended_ns`, see `after_stop`.
        let pair = unsafe { &mut *pointer };
        if tw.is_there(pair.tuple.lport, pair.tuple.rport) {
            pair.ended_ns = now_ns;
            record_stop(key, now_ns);
        } else {
            // As above.
            let at_ns = if pair.ended_ns == 0 {
                now_ns
            } else {
                pair.ended_ns
            };
            report_end(key, pair, at_ns, FLAG_INFERRED);
        }
    }
}

/// Notes what this CPU is stopping the timer of, and finds out what became of that which it stopped before:
/// the kernel goes on to the end of that with interrupts disabled (`__mod_timer`, `__try_to_del_timer_sync`,
/// `expire_timers`, `migrate_timer_list`).
#[inline(always)]
fn record_stop(key: u64, now_ns: u64) {
    let at = stop_of(kernel::cpu());
    let (Some(place), Some(time)) = (
        TIME_WAIT.get_ptr_mut(at),
        TIME_WAIT.get_ptr_mut(at.wrapping_add(1)),
    ) else {
        // The agent finds out as it goes through all records (`hook::stale`).
        maps::count(count::UNCLAIMED, 1);
        return;
    };
    // SAFETY: a live map value; only programs on this CPU with interrupts disabled write it.
    let place = unsafe { &mut *place };
    // SAFETY: as above.
    let time = unsafe { &mut *time };
    let (before, stopped_ns) = (*place, *time);
    *place = key;
    *time = now_ns;
    maps::count(count::STOPPED, 1);
    emit::wake_agent();
    if before != key {
        resolve_timer_stop(before, Some(stopped_ns), now_ns);
    }
}

/// Looks at that which this CPU stopped the timer of last. Returns whether it is still uncertain whether it
/// was for good.
#[inline(always)]
pub(crate) fn resolve_last_stop(cpu: u32, now_ns: u64) -> bool {
    let Some(place) = TIME_WAIT.get(stop_of(cpu)) else {
        return false;
    };
    // SAFETY: a live word of the map.
    let key = unsafe { read_volatile(place) };
    resolve_timer_stop(key, None, now_ns)
}

/// Tells of the end of what has its record under this key, if its timer was stopped for good. `over`: when
/// this CPU stopped it, which is over by now; none: some CPU did, at some time. Returns whether that is still
/// uncertain.
#[inline(always)]
fn resolve_timer_stop(key: u64, over: Option<u64>, now_ns: u64) -> bool {
    let mut uncertain = false;
    if let Some(pointer) = SOCKS.get_ptr_mut(key) {
        // SAFETY: a live record; what is read of one that another CPU removes is thrown away.
        let sock = unsafe { &*pointer };
        if sock.life == IN_TIME_WAIT {
            let tw = socket_of_moved(key, sock);
            // SAFETY: the caller's record.
            let stopped_ns = unsafe { &raw mut (*pointer).seen_ns };
            match after_stop(tw, &sock.tuple, stopped_ns, over, now_ns) {
                Stop::Final(at_ns) => never_finished(tw, sock, at_ns, 0),
                Stop::Uncertain => uncertain = true,
                Stop::None => {}
            }
        }
    }
    let Some(pointer) = TIME_WAITS.get_ptr_mut(key) else {
        return uncertain;
    };
    // SAFETY: as above.
    let pair = unsafe { &*pointer };
    // SAFETY: as above.
    let stopped_ns = unsafe { &raw mut (*pointer).ended_ns };
    match after_stop(
        socket_of_pair(key, pair),
        &pair.tuple,
        stopped_ns,
        over,
        now_ns,
    ) {
        Stop::Final(at_ns) => report_end(key, pair, at_ns, 0),
        Stop::Uncertain => uncertain = true,
        Stop::None => {}
    }
    uncertain
}

/// What became of a timer that was stopped.
enum Stop {
    /// It runs, as far as is known
    None,
    /// It is too early to say, or whoever stopped it once more will
    Uncertain,
    /// At this time it was stopped for good
    Final(u64),
}

/// What became of this time-wait socket's timer, which was last stopped at `stopped_ns`, if that is not 0.
/// Each stop writes that. If the timer was set anew, it is made 0 here, unless it has been stopped since.
#[inline(always)]
fn after_stop(
    tw: TimeWait,
    tuple: &Tuple,
    stopped_ns: *mut u64,
    over: Option<u64>,
    now_ns: u64,
) -> Stop {
    // SAFETY: the callers': a word of a live record.
    let detail_ns = unsafe { read_volatile(stopped_ns) };
    if detail_ns == 0 || over.is_some_and(|over| over != detail_ns) {
        return Stop::None;
    }
    if tw.is_running(tuple.lport, tuple.rport) {
        // The tracepoint comes before the timer is taken off: a moment ago says nothing yet.
        if over.is_none() && now_ns.saturating_sub(detail_ns) < STOPPING_NS {
            return Stop::Uncertain;
        }
        runs_on(stopped_ns, detail_ns);
        return Stop::None;
    }
    // Read before and after: if it was set anew, and then stopped for good, it ended at that time.
    // SAFETY: as above.
    if unsafe { read_volatile(stopped_ns) } == detail_ns {
        Stop::Final(detail_ns)
    } else {
        Stop::Uncertain
    }
}

/// When this connection came into the state that it is in.
#[inline(always)]
fn entered_ns(sock: &Sock) -> u64 {
    sock.step(sock.path_len.wrapping_sub(1)).mono_ns()
}

/// The peer's FIN came at some time until `now_ns`.
#[inline(always)]
fn late_fin(tw: TimeWait, sock: &Sock, now_ns: u64) {
    fin(tw, sock, tw.fin_ns(entered_ns(sock), now_ns), FLAG_INFERRED);
}

/// Looks at a time-wait socket that was taken off the list. Returns whether it was put back.
#[inline(always)]
pub(crate) fn poll(tw: TimeWait, now_ns: u64) -> bool {
    let Some(sock) = waiting(tw) else {
        return false;
    };
    // SAFETY: a live record; only read.
    let sock = unsafe { &*sock };
    let there = tw.is_there(sock.tuple.lport, sock.tuple.rport);
    if there && !tw.waits_for_fin() {
        late_fin(tw, sock, now_ns);
    } else if (there && tw.is_pending()) || now_ns.saturating_sub(sock.seen_ns) < STOPPING_NS {
        // Whoever looks at what is stopped tells.
        return enqueue_poll(tw);
    } else {
        // No program saw its timer stop, or nobody could tell of it.
        never_finished(tw, sock, now_ns, FLAG_INFERRED);
    }
    false
}

/// The time-wait socket of the pair with this key.
#[inline(always)]
fn socket_of_pair(key: u64, pair: &TimeWaitRecord) -> TimeWait {
    TimeWait::listed([pair.tw, if key == pair.tw { 0 } else { pair.conn }])
}

/// The time-wait socket in which the connection with this key waits.
#[inline(always)]
fn socket_of_moved(key: u64, moved: &Sock) -> TimeWait {
    let address = moved.listener;
    TimeWait::listed([address, if key == address { 0 } else { moved.conn }])
}

/// The timer that was stopped at `detail_ns`, which this word of a live record says, was set anew. Unless it
/// has been stopped since then. Before 5.12 a stop by another CPU just now is forgotten: its end is then found
/// by the agent (`hook::stale`).
#[inline(always)]
fn runs_on(stopped_ns: *mut u64, detail_ns: u64) {
    // SAFETY: the callers': a live word.
    unsafe { exchange_if(stopped_ns, detail_ns, 0) };
}

/// The pair with this key, if it is over, and of this kind (`RUNNING_TIME_WAITS`, `STOPPED_TIME_WAITS`, `ALL_TIME_WAITS`).
/// It may have been stopped a moment ago, by somebody who is about to tell. If its timer was set anew, and
/// nobody has looked at that yet, its record tells from now on.
#[inline(always)]
pub(crate) fn unreported_end(key: u64, kind: u64, now_ns: u64) -> Option<*const TimeWaitRecord> {
    let pointer = TIME_WAITS.get_ptr_mut(key)?;
    // SAFETY: a live record; only read.
    let pair = unsafe { &*pointer };
    // SAFETY: a live record.
    let ended_ns = unsafe { &raw mut (*pointer).ended_ns };
    // SAFETY: a live word.
    let stopped_ns = unsafe { read_volatile(ended_ns) };
    let runs = socket_of_pair(key, pair).is_running(pair.tuple.lport, pair.tuple.rport);
    if runs && stopped_ns != 0 && now_ns.saturating_sub(stopped_ns) > STOPPING_NS {
        runs_on(ended_ns, stopped_ns);
    }
    let asked = kind == ALL_TIME_WAITS || (kind == STOPPED_TIME_WAITS) == (stopped_ns != 0);
    (asked && !runs).then_some(pointer.cast_const())
}

/// The time-wait socket in which a connection waits for its peer's FIN, by its record under this key, if
/// that has come, or the socket is no more.
#[inline(always)]
pub(crate) fn moved_is_stale(key: u64, moved: &Sock) -> Option<TimeWait> {
    let tw = socket_of_moved(key, moved);
    let waits = tw.is_running(moved.tuple.lport, moved.tuple.rport) && tw.waits_for_fin();
    (!waits).then_some(tw)
}

/// Tells what became of it, found at `now_ns`.
#[inline(always)]
pub(crate) fn report_moved(tw: TimeWait, moved: &Sock, now_ns: u64) {
    if tw.is_there(moved.tuple.lport, moved.tuple.rport) && !tw.waits_for_fin() {
        // If it is no more by now, its end is told as well.
        late_fin(tw, moved, now_ns);
    } else {
        never_finished(tw, moved, now_ns, FLAG_INFERRED);
    }
}
