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

use core::ptr::read_volatile;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_jiffies64};
use tcptrace_common::{
    config::{ALL_PAIRS, EMIT_TRANSITION, STOPPED_PAIRS, TIME_WAIT_BY_TIMER},
    count,
    layout::ABSENT,
    record::{FLAG_INFERRED, KNOWN_BY_ELIMINATION, KNOWN_EXPIRED, RESET_RECEIVED, Step},
    tcp,
};

use crate::{
    atomic::compare_exchange,
    constants::{config, off},
    emit,
    kernel::{self, Object as _, Probed, Typed, copy, number},
    maps::{self, BEGIN_JIFFIES, BEGIN_NS, HANDLER, MODE, PAIRS, SOCKS, TIME_WAIT, WATCH},
    sock::{GONE, LIVES, MOVED, PARTIAL, Pair, Sock},
    tuple::Tuple,
};

/// Nodes of a hash chain that are looked at. A new one is put at the head.
const CHAIN_MAX: u32 = 8;
/// Longer than a timer is between `timer_cancel` and being off, or set anew, with interrupts disabled:
/// also on a virtual CPU that is taken away in between.
const STOPPING_NS: u64 = 50_000_000;
const NS_PER_S: u64 = 1_000_000_000;
/// `TCP_TIMEWAIT_LEN` (include/net/tcp.h), in seconds
const TIMEWAIT_S: u64 = 60;

/// A time-wait socket: where it is, or was, and its cookie, the one of its connection; 0 if nobody had
/// asked for that.
#[derive(Clone, Copy)]
pub(crate) struct TimeWait {
    address: u64,
    cookie: u64,
}

impl TimeWait {
    /// The one that is at this address now.
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        let address = number(address);
        let cookie = if config!(cookie_helper) == 0 {
            0
        } else {
            Probed(address).read(off!(sk_cookie))
        };
        Self { address, cookie }
    }

    /// As it stands on the list.
    #[inline(always)]
    pub(crate) fn listed([address, cookie]: [u64; 2]) -> Self {
        Self { address, cookie }
    }

    #[inline(always)]
    fn probe(self) -> Probed {
        Probed(self.address)
    }

    /// Under what its records are kept: its address mixed with its cookie. The address alone comes again
    /// with another connection, the cookie alone with the same socket's next one. Of 100,000 records two
    /// have the same key once in a billion times. Without a cookie, its address.
    #[inline(always)]
    pub(crate) fn key(self) -> u64 {
        self.address ^ self.cookie.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Whether it still waits for the peer's FIN.
    #[inline(always)]
    fn waits_for_fin(self) -> bool {
        self.probe().read::<u8>(off!(tw_substate)) == tcp::FIN_WAIT2
    }

    #[inline(always)]
    fn timer(self) -> Probed {
        Probed(self.address + u64::from(off!(tw_timer)))
    }

    /// Whether it is still there, with these ports: its memory may have been given to another.
    #[inline(always)]
    fn is_there(self, lport: u16, rport: u16) -> bool {
        let there = self.probe();
        if self.cookie != 0 {
            return there.read::<u64>(off!(sk_cookie)) == self.cookie;
        }
        there.read::<u16>(off!(sk_dport)) == rport.to_be()
            && there.read::<u16>(off!(sk_num)) == lport
    }

    /// Whether its timer runs. It does from before the socket reports `CLOSE` until
    /// `inet_twsk_kill`, whose callers stop it first.
    #[inline(always)]
    fn is_pending(self) -> bool {
        self.timer().read::<u64>(off!(timer_pprev)) != 0
    }

    /// Whether it is still there, with these ports, and its time is not over.
    #[inline(always)]
    fn is_running(self, lport: u16, rport: u16) -> bool {
        self.is_there(lport, rport) && self.is_pending()
    }

    /// Whether its time is over, by the kernel's own clock.
    #[inline(always)]
    fn is_due(self) -> bool {
        let expires: u64 = self.timer().read(off!(timer_expires));
        jiffies().wrapping_sub(expires).cast_signed() >= 0
    }

    /// Whether its timer has gone off, set to `TCP_TIMEWAIT_LEN`: that is at the end of its bucket of the
    /// timer wheel, seconds later than its time (`calc_index`, kernel/time/timer.c).
    #[inline(always)]
    fn has_gone_off(self, now_ns: u64) -> bool {
        let Some(hz) = hz(now_ns) else {
            return false;
        };
        let level = if TIMEWAIT_S * hz < 63 << 9 { 3 } else { 4 };
        let expires: u64 = self.timer().read(off!(timer_expires));
        let bucket = ((expires >> (level * 3)) + 1) << (level * 3);
        jiffies().wrapping_sub(bucket).cast_signed() >= 0
    }

    /// When the peer's FIN came, to the tick: its timer was then set to `TCP_TIMEWAIT_LEN`, even
    /// where it stayed in its bucket of the timer wheel (`tcp_timewait_state_process`,
    /// `__mod_timer`). Between `entered_ns` and `now_ns`.
    #[inline(always)]
    fn fin_ns(self, entered_ns: u64, now_ns: u64) -> u64 {
        let Some(hz) = hz(now_ns) else {
            return now_ns;
        };
        let expires: u64 = self.timer().read(off!(timer_expires));
        let set = expires.wrapping_sub(TIMEWAIT_S * hz);
        let since_ns = jiffies().wrapping_sub(set).wrapping_mul(NS_PER_S / hz);
        if since_ns > now_ns.saturating_sub(entered_ns) {
            return entered_ns;
        }
        now_ns - since_ns
    }
}

#[inline(always)]
fn jiffies() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

/// Ticks per second (`CONFIG_HZ`), from how many there have been since the first look.
#[inline(always)]
fn hz(now_ns: u64) -> Option<u64> {
    let (ns, ticks) = (TIME_WAIT.get(BEGIN_NS)?, TIME_WAIT.get(BEGIN_JIFFIES)?);
    let ticks = jiffies().wrapping_sub(*ticks);
    let ns = now_ns.wrapping_sub(*ns);
    // Fewer do not tell 250 from 300.
    if ticks < 25 || ns < NS_PER_S / 50 {
        return None;
    }
    // In microseconds, or ten years of ticks would not fit.
    let about = (ticks * 1_000_000).checked_div(ns / 1000)?;
    Some(match about {
        0..175 => 100,
        175..275 => 250,
        275..650 => 300,
        _ => 1000,
    })
}

/// Notes the moment of the first look; see [`hz`].
#[inline(always)]
pub(crate) fn begin(now_ns: u64) {
    let (Some(ns), Some(ticks)) = (
        TIME_WAIT.get_ptr_mut(BEGIN_NS),
        TIME_WAIT.get_ptr_mut(BEGIN_JIFFIES),
    ) else {
        return;
    };
    // SAFETY: a live, aligned map value; only the agent's runs, one after the other, come here.
    let ns = unsafe { &mut *ns };
    // SAFETY: as above.
    let ticks = unsafe { &mut *ticks };
    if *ns == 0 {
        *ticks = jiffies();
        *ns = now_ns;
    }
}

/// The time-wait socket that has taken this closing socket's place in the hash table.
#[inline(always)]
pub(crate) fn find(sk: Typed) -> Option<TimeWait> {
    if off!(tw_timer) == ABSENT {
        return None;
    }
    let net = sk.probe(off!(sk_net));
    let hashinfo = Probed(if off!(net_hashinfo) == ABSENT {
        Probed(net.read(off!(net_death_row))).read(off!(death_row_hashinfo))
    } else {
        net.read(off!(net_hashinfo))
    });
    let buckets: u64 = hashinfo.read(off!(hashinfo_ehash));
    let mask: u32 = hashinfo.read(off!(hashinfo_mask));
    let hash: u32 = sk.read(off!(sk_hash));
    let dport: u16 = sk.read(off!(sk_dport));
    let cookie: u64 = sk.read(off!(sk_cookie));
    // A bucket is one pointer; a chain ends in an odd number.
    let mut node: u64 = Probed(buckets + u64::from(hash & mask) * 8).read(0);
    for _ in 0..CHAIN_MAX {
        if node & 1 != 0 || node == 0 {
            return None;
        }
        let found = Probed(node - u64::from(off!(sk_nulls_node)));
        // Most chains have one node, ours: first what is least likely to be another's.
        if found.read::<u64>(off!(sk_cookie)) == cookie
            && found.read::<u8>(off!(sk_state)) == tcp::TIME_WAIT
            && (cookie != 0
                || (found.read::<u32>(off!(sk_hash)) == hash
                    && found.read::<u16>(off!(sk_dport)) == dport))
        {
            let cookie = if config!(cookie_helper) == 0 {
                0
            } else {
                cookie
            };
            return Some(TimeWait {
                address: found.0,
                cookie,
            });
        }
        node = Probed(node).read(0);
    }
    None
}

/// Keeps what the end of `TIME_WAIT` must say of a socket that has just reported `CLOSE`, and whose
/// last step is told.
#[inline(always)]
pub(crate) fn replace(tw: TimeWait, sock: &mut Sock) {
    learn_handler(tw);
    if sock.state() == tcp::TIME_WAIT {
        sock.life = GONE;
        if sock.is_shown() && mode() != 0 {
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
    // Another's, whose end nobody has told of yet: its memory was given away before somebody looked.
    if let Some(former) = waiting(tw) {
        // SAFETY: a live record; only read.
        let former = unsafe { &*former };
        let at_ns = if former.seen_ns == 0 {
            now_ns
        } else {
            former.seen_ns
        };
        let step = Step::new(at_ns, tcp::CLOSE);
        emit::moved(former, step, 0, 0, 0, || SOCKS.remove(tw.key()).is_ok());
    }
    sock.life = MOVED;
    sock.seen_ns = 0;
    sock.listener = tw.address;
    let inserted = SOCKS.insert(tw.key(), &*sock, 0);
    sock.life = LIVES;
    if inserted.is_err() {
        return false;
    }
    sock.life = GONE;
    sock.sent = sock.path_len;
    // Without room on the list, its end shows when its timer stops.
    let _listed = mode() == TIME_WAIT_BY_TIMER && watch(tw);
    // What happened to it on another CPU before it had its record, nobody told: it may have ended, or
    // its FIN may have come.
    if let Some(moved) = waiting(tw) {
        // SAFETY: a live record; only read.
        let moved = unsafe { &*moved };
        if !tw.is_running(moved.tuple.lport, moved.tuple.rport) {
            never_finished(tw, moved, now_ns, FLAG_INFERRED);
        } else if !tw.waits_for_fin() {
            fin(tw, moved, now_ns, FLAG_INFERRED);
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
    TIME_WAIT.get(MODE).map_or(0, |mode| *mode)
}

#[inline(always)]
fn pair_of(tw: TimeWait, sock: &Sock, seq: u8, entered: Step) -> Pair {
    let slot = usize::from(sock.slot & 1);
    let mut pair = Pair {
        conn: sock.conn,
        since_ns: entered.mono_ns(),
        ended_ns: 0,
        tw: tw.address,
        owner: tcptrace_common::record::Owner::NONE,
        tuple: Tuple::EMPTY,
        netns: sock.netns,
        flags: sock.flags & PARTIAL,
        role: sock.role,
        source: sock.sources[slot],
        seq: seq.wrapping_add(1),
    };
    copy(&mut pair.tuple, &sock.tuple);
    copy(&mut pair.owner, &sock.owners[slot]);
    pair
}

/// Keeps what the end of `TIME_WAIT` must say.
#[inline(always)]
fn insert_pair(tw: TimeWait, pair: &Pair) {
    // With `--failed` only the agent knows whether it was shown; what gets here has not failed.
    if config!(emit) & EMIT_TRANSITION == 0 || config!(failed) != 0 {
        return;
    }
    let key = tw.key();
    if PAIRS.insert(key, pair, u64::from(BPF_NOEXIST)).is_err() {
        if let Some(former) = PAIRS.get_ptr(key) {
            // SAFETY: a live record. Another's, whose end nobody has told of yet.
            let former = unsafe { &*former };
            let (at_ns, inferred) = if former.ended_ns == 0 {
                (pair.since_ns, FLAG_INFERRED)
            } else {
                (former.ended_ns, 0)
            };
            emit::pair_ended(former, at_ns, inferred, || PAIRS.remove(key).is_ok());
        }
        if PAIRS.insert(key, pair, 0).is_err() {
            maps::count(count::PAIRS_FULL, 1);
            emit::nudge();
            return;
        }
    }
    // It may have ended on another CPU, where nothing was known of it.
    if !tw.is_pending() {
        pair_ended(tw, kernel::now_ns(), FLAG_INFERRED);
    }
}

#[inline(always)]
fn pair_ended(tw: TimeWait, now_ns: u64, inferred: u8) {
    let key = tw.key();
    if let Some(pair) = PAIRS.get_ptr(key) {
        // SAFETY: a live record; what is read of one that another CPU removes is thrown away.
        emit::pair_ended(unsafe { &*pair }, now_ns, inferred, || {
            PAIRS.remove(key).is_ok()
        });
    }
}

/// The record of a connection that waits in this time-wait socket for its peer's FIN.
#[inline(always)]
fn waiting(tw: TimeWait) -> Option<*mut Sock> {
    let pointer = SOCKS.get_ptr_mut(tw.key())?;
    // SAFETY: a live record.
    (unsafe { (*pointer).life } == MOVED).then_some(pointer)
}

/// The peer's FIN has come: `TIME_WAIT` from `now_ns` on.
#[inline(always)]
fn fin(tw: TimeWait, sock: &Sock, now_ns: u64, flags: u8) {
    let key = tw.key();
    let step = Step::new(now_ns, tcp::TIME_WAIT);
    let pair = pair_of(tw, sock, sock.path_len, step);
    let shown = sock.is_shown();
    if emit::moved(sock, step, flags, 0, 0, || SOCKS.remove(key).is_ok()) && shown {
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
        pair_ended(tw, now_ns, 0);
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

/// It ended without the peer's FIN: after `tcp_fin_timeout`, by an RST, or with its namespace.
#[inline(always)]
pub(crate) fn never_finished(tw: TimeWait, sock: &Sock, now_ns: u64, flags: u8) {
    let key = tw.key();
    let mut known = 0;
    let mut reset = 0;
    if !tw.is_there(sock.tuple.lport, sock.tuple.rport) {
        // What is there now says nothing of it.
    } else if tw.is_due() {
        known = KNOWN_EXPIRED;
    } else if config!(reset_reason) != 0 && sock.counters.reset == 0 && !net_is_dying(tw) {
        // Where the kernel tells of every RST we send, for time-wait sockets as well, this was
        // none of ours. Unless somebody has destroyed it (`ss -K`), which nothing tells.
        reset = RESET_RECEIVED;
        known = KNOWN_BY_ELIMINATION;
    }
    let step = Step::new(now_ns, tcp::CLOSE);
    emit::moved(sock, step, flags, known, reset, || {
        SOCKS.remove(key).is_ok()
    });
}

/// Whether the network namespace is being taken down, with all that is in it.
#[inline(always)]
fn net_is_dying(tw: TimeWait) -> bool {
    if off!(net_count) == ABSENT {
        return true;
    }
    let net = Probed(tw.probe().read(off!(sk_net)));
    net.read::<u32>(off!(net_count)) == 0
}

/// Puts a time-wait socket on the list of those that `hook::time_wait::watch` looks at. Returns
/// whether there was room.
#[inline(always)]
fn watch(tw: TimeWait) -> bool {
    if !put_back(tw) {
        return false;
    }
    maps::count(count::WATCHED, 1);
    emit::nudge();
    true
}

/// The same, for one that was just taken off.
#[inline(always)]
fn put_back(tw: TimeWait) -> bool {
    WATCH.push(&[tw.address, tw.cookie], 0).is_ok()
}

/// Whether a timer that is being stopped will surely not be set anew: its time is over, or its namespace
/// is. It keeps the time it was set to until afterwards (`__mod_timer`).
#[inline(always)]
fn is_final(tw: TimeWait, now_ns: u64) -> bool {
    tw.has_gone_off(now_ns) || (off!(net_count) != ABSENT && net_is_dying(tw))
}

/// Of a pair whose timer was stopped, and that has no room on the list: whether it has ended, or its timer
/// was set anew, the agent finds out as it goes through all of them (`hook::hidden`).
#[inline(always)]
fn leave_to_sweep() {
    maps::count(count::UNCLAIMED, 1);
}

#[inline(always)]
fn learn_handler(tw: TimeWait) {
    if let Some(handler) = TIME_WAIT.get_ptr_mut(HANDLER) {
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
    if let Some(sock) = waiting(tw) {
        // SAFETY: a live record; `seen_ns` is this hook's alone.
        let sock = unsafe { &mut *sock };
        sock.seen_ns = now_ns;
        if !tw.waits_for_fin() {
            // It came a while ago, and did not stop the timer, if that is stopped for good now.
            let at_ns = if is_final(tw, now_ns) {
                tw.fin_ns(entered_ns(sock), now_ns)
            } else {
                now_ns
            };
            fin(tw, sock, at_ns, FLAG_INFERRED);
        } else if !watch(tw) {
            // Set anew is only the timer of one whose FIN has come.
            never_finished(tw, sock, now_ns, 0);
        }
    }
    if let Some(pair) = PAIRS.get_ptr_mut(tw.key()) {
        // SAFETY: a live record; `ended_ns` is this hook's alone.
        unsafe { (*pair).ended_ns = now_ns };
        if !watch(tw) {
            if is_final(tw, now_ns) {
                pair_ended(tw, now_ns, 0);
            } else {
                leave_to_sweep();
            }
        }
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
pub(crate) fn look(tw: TimeWait, now_ns: u64) -> bool {
    if let Some(sock) = waiting(tw) {
        // SAFETY: a live record; only read.
        let sock = unsafe { &*sock };
        let there = tw.is_there(sock.tuple.lport, sock.tuple.rport);
        if there && !tw.waits_for_fin() {
            late_fin(tw, sock, now_ns);
        } else if there && tw.is_pending() {
            // Without room, its end shows when its timer stops.
            return put_back(tw);
        } else {
            let at_ns = if sock.seen_ns == 0 {
                now_ns
            } else {
                sock.seen_ns
            };
            never_finished(tw, sock, at_ns, 0);
        }
        return false;
    }
    let key = tw.key();
    if let Some(pointer) = PAIRS.get_ptr_mut(key) {
        // SAFETY: a live record; only read.
        let pair = unsafe { &*pointer };
        // Before the timer is looked at, or a stop in between would be taken for this one.
        // SAFETY: a live word of the record.
        let stopped_ns = unsafe { read_volatile(&raw const pair.ended_ns) };
        let runs = tw.is_running(pair.tuple.lport, pair.tuple.rport);
        // The tracepoint comes before the timer is taken off: a moment ago says nothing yet.
        if runs && now_ns.saturating_sub(stopped_ns) < STOPPING_NS {
            let stays = put_back(tw);
            if !stays {
                leave_to_sweep();
            }
            return stays;
        }
        if stopped_ns != 0 && !runs {
            emit::pair_ended(pair, stopped_ns, 0, || PAIRS.remove(key).is_ok());
        } else {
            runs_on(pointer, stopped_ns);
        }
    }
    false
}

/// The timer of this pair, which was stopped at `stopped_ns`, was set anew. Unless it has been stopped since
/// then.
#[inline(always)]
fn runs_on(pair: *mut Pair, stopped_ns: u64) {
    if config!(exchanges) != 0 {
        // SAFETY: the caller has it from the map: a live record.
        let ended_ns = unsafe { &raw mut (*pair).ended_ns };
        // SAFETY: a live word.
        unsafe { compare_exchange(ended_ns, stopped_ns, 0) };
    }
}

/// The pair with this key, if it is over, and of this kind (`HIDDEN_PAIRS`, `STOPPED_PAIRS`, `ALL_PAIRS`).
/// It may have been stopped a moment ago, by somebody who is about to tell. If its timer was set anew, and
/// there was no room to look at it, its record tells from now on.
#[inline(always)]
pub(crate) fn untold_end(key: u64, kind: u64, now_ns: u64) -> Option<*const Pair> {
    let pointer = PAIRS.get_ptr_mut(key)?;
    // SAFETY: a live record; only read.
    let pair = unsafe { &*pointer };
    let cookie = if key == pair.tw { 0 } else { pair.conn };
    let tw = TimeWait::listed([pair.tw, cookie]);
    // SAFETY: a live word of the record.
    let stopped_ns = unsafe { read_volatile(&raw const pair.ended_ns) };
    let runs = tw.is_running(pair.tuple.lport, pair.tuple.rport);
    if runs && stopped_ns != 0 && now_ns.saturating_sub(stopped_ns) > STOPPING_NS {
        runs_on(pointer, stopped_ns);
    }
    let asked = kind == ALL_PAIRS || (kind == STOPPED_PAIRS) == (stopped_ns != 0);
    (asked && !runs).then_some(pointer.cast_const())
}

/// The time-wait socket in which a connection waits for its peer's FIN, by its record under this key, if
/// that has come, or the socket is no more.
#[inline(always)]
pub(crate) fn waits_no_more(key: u64, moved: &Sock) -> Option<TimeWait> {
    let address = moved.listener;
    let cookie = if key == address { 0 } else { moved.conn };
    let tw = TimeWait::listed([address, cookie]);
    let waits = tw.is_running(moved.tuple.lport, moved.tuple.rport) && tw.waits_for_fin();
    (!waits).then_some(tw)
}

/// Tells what became of it, found at `now_ns`.
#[inline(always)]
pub(crate) fn tell_moved(tw: TimeWait, moved: &Sock, now_ns: u64) {
    if tw.is_there(moved.tuple.lport, moved.tuple.rport) && !tw.waits_for_fin() {
        // If it is no more by now, its end is told as well.
        late_fin(tw, moved, now_ns);
    } else {
        never_finished(tw, moved, now_ns, FLAG_INFERRED);
    }
}
