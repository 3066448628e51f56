//! Putting one record into the ring, or counting that it did not fit.

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::ring_buf::RingBufEntry,
};
use tcptrace_common::{
    config::{EMIT_CLOSE, EMIT_OWNER, EMIT_TRANSITION},
    count,
    record::{
        CloseRecord, DetailRecord, FLAG_DEDUCED, FLAG_FIRST, FLAG_HISTORY, FLAG_INFERRED,
        FLAG_PARTIAL, FLAG_ROLE_INFERRED, KIND_ACCEPT, KIND_CLOSE, KIND_LISTENER, KIND_OWNER,
        KIND_STEPS, KIND_TRANSITION, ListenerRecord, ORIGINS, Origin, PATH_LEN, PROCESS_ARGS_MAX,
        PathRecord, ProcessRecord, Record, SPAN_UNKNOWN, Step, UNKNOWN,
    },
    tcp,
};

use crate::{
    accept::{self, Accepted},
    constants::config,
    filter,
    kernel::{copy, fill_words},
    maps::{self, ASLEEP, EVENTS},
    sock::{Sock, TimeWaitRecord},
    tuple::Tuple,
};

const BPF_RB_AVAIL_DATA: u64 = 0;

/// Whether the agent sleeps; it is awake afterwards.
#[inline(always)]
fn wake() -> bool {
    let Some(asleep) = ASLEEP.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a live, aligned map value. The agent and other CPUs write whole words; a lost race
    // costs one wake-up too many.
    if unsafe { *asleep } == 0 {
        return false;
    }
    // SAFETY: as above.
    unsafe { *asleep = 0 };
    true
}

/// Flags for `bpf_ringbuf_submit` after a record of `len` bytes: wake the agent if it sleeps,
/// or if this record brought the ring to its mark.
#[inline(always)]
fn submit_flags(len: u64) -> u64 {
    if wake() {
        return u64::from(BPF_RB_FORCE_WAKEUP);
    }
    let mark = u64::from(config!(wake_bytes));
    if mark != 0 {
        let waiting = EVENTS.query(BPF_RB_AVAIL_DATA);
        if waiting >= mark && waiting < mark + 2 * len {
            return u64::from(BPF_RB_FORCE_WAKEUP);
        }
    }
    u64::from(BPF_RB_NO_WAKEUP)
}

/// Sends a record that is written, or throws it away.
#[inline(always)]
fn submit_if<T: 'static>(slot: RingBufEntry<T>, wanted: bool) {
    if wanted {
        slot.submit(submit_flags(size_of::<T>() as u64));
    } else {
        slot.discard(u64::from(BPF_RB_NO_WAKEUP));
    }
}

/// Wakes the agent without a record, so that it starts its timer for what is deferred.
#[inline(always)]
pub(crate) fn wake_agent() {
    if wake()
        && let Some(slot) = EVENTS.reserve::<u64>(0)
    {
        slot.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// Sends what a process is, and behind it its command line if that is wanted.
#[inline(always)]
pub(crate) fn process(record: &ProcessRecord) -> bool {
    let with_args = size_of::<ProcessRecord>() + PROCESS_ARGS_MAX;
    let len = if config!(args) != 0 {
        with_args
    } else {
        size_of::<ProcessRecord>()
    };
    let bytes = core::ptr::slice_from_raw_parts((&raw const *record).cast::<u8>(), len);
    // SAFETY: the place in `SCRATCH` that the record stands in goes on behind it.
    let bytes = unsafe { &*bytes };
    EVENTS
        .output::<[u8]>(bytes, submit_flags(len as u64))
        .is_ok()
}

/// Fills the part common to all records.
#[inline(always)]
pub(crate) fn fill(record: &mut Record, sock: &Sock, tuple: &Tuple) {
    fill_as(record, sock, tuple, sock.slot);
}

/// The same, with the owner in this slot.
#[inline(always)]
fn fill_as(record: &mut Record, sock: &Sock, tuple: &Tuple, slot: u8) {
    let owned = sock.is_owned(slot);
    let slot = usize::from(slot & 1);
    let owner = &sock.owners[slot];
    record.conn = sock.conn;
    copy(&mut record.owner, owner);
    record.owner.tgid = owner.tgid * u32::from(owned);
    copy(&mut record.laddr, &tuple.laddr);
    copy(&mut record.raddr, &tuple.raddr);
    record.netns = sock.netns;
    record.peer_pid = 0;
    record.lport = tuple.lport;
    record.rport = tuple.rport;
    record.flags = sock.record_flags() | tuple.mapped;
    record.family = tuple.family;
    record.role = sock.apparent_role();
    record.source = sock.sources[slot] * owned;
    record.process = sock.processes[slot];
}

/// Fills in the state change at `index` of the socket's path.
#[inline(always)]
pub(crate) fn fill_step(record: &mut Record, sock: &Sock, index: u8) {
    // Of the first step the state before is `origin`, and how long it lasted nobody knows.
    let mut before = Step::new(0, sock.origin);
    if index != 0 {
        before = sock.step(index - 1);
    }
    fill_change(record, before, sock.step(index), index);
    if index == sock.first() {
        record.flags |= FLAG_FIRST;
    }
}

/// Fills in the state change from one step to the next, at `index` of a path.
#[inline(always)]
fn fill_change(record: &mut Record, before: Step, step: Step, index: u8) {
    record.mono_ns = step.mono_ns();
    record.kind = KIND_TRANSITION;
    record.old = before.state();
    record.new = step.state();
    record.seq = index;
    record.span_ns = SPAN_UNKNOWN;
    if before.mono_ns() != 0 {
        record.span_ns = record.mono_ns.saturating_sub(before.mono_ns());
    }
}

/// Fills in the path.
#[inline(always)]
fn fill_path(record: &mut PathRecord, sock: &Sock, [untold, len]: [u8; 2], accepted: Accepted) {
    let Accepted { slot, reported } = accepted;
    copy(&mut record.path, &sock.path);
    record.accept_ns = if slot == 0 { 0 } else { sock.accept_ns };
    record.err = sock.err;
    record.path_len = len;
    if config!(failed) != 0 {
        record.head.flags |= FLAG_HISTORY;
    }
    record.shutdown = sock.shutdown;
    record.untold = untold;
    record.moved = 0;
    copy(&mut record.opener, &sock.owners[0]);
    record.backlog = sock.backlog;
    record.opener_source = sock.sources[0];
    // With `-p` the steps before the accept are shown because of whoever accepted.
    record.has_opener = if filter::decides_at_accept() { 0 } else { slot };
    record.accepted = reported;
    record.first = sock.first();
    record.origin = sock.origin;
    record.overlooked = sock.overlooked >> 1 & slot;
    record.reserved = [0; 2];
}

/// Counts so many steps of a socket, and perhaps the totals, that found the ring full, and the accept
/// that was to be told with them. Of those that stand for what was hidden the kernel has counted the loss.
#[inline(always)]
pub(crate) fn count_lost(sock: &Sock, number: u8, accepted: u8, closes: bool) {
    maps::count(count::RING_FULL_ACCEPT, u64::from(accepted));
    if config!(emit) & EMIT_TRANSITION != 0 {
        let number = number.wrapping_sub(sock.unseen_steps);
        maps::count(count::RING_FULL_TRANSITION, u64::from(number));
    }
    maps::count(count::RING_FULL_CLOSE, u64::from(closes));
}

/// Sends the last step of a connection that lives on in a time-wait socket, and its totals, if
/// `claim` says that nobody else does. `flags` are a record's, `known` its counters'.
#[inline(always)]
pub(crate) fn moved(
    sock: &Sock,
    last: Step,
    flags: u8,
    known: u8,
    claim: impl FnOnce() -> bool,
) -> bool {
    let wanted = config!(emit);
    if wanted & (EMIT_TRANSITION | EMIT_CLOSE) == 0 || !filter::is_shown(sock) {
        return claim();
    }
    let len = sock.path_len;
    let accepted = accept::of(sock);
    let Some(mut slot) = EVENTS.reserve::<CloseRecord>(0) else {
        let ours = claim();
        if ours {
            count_lost(
                sock,
                len.wrapping_sub(sock.sent).wrapping_add(1),
                accepted.reported,
                wanted & EMIT_CLOSE != 0,
            );
        }
        return ours;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    fill_as(&mut record.path.head, sock, &sock.tuple, accepted.slot);
    fill_path(
        &mut record.path,
        sock,
        [sock.sent, len.wrapping_add(1)],
        accepted,
    );
    record.path.path[len as usize & (PATH_LEN - 1)] = last;
    record.path.moved = 1;
    copy(&mut record.counters, &sock.counters);
    record.counters.known |= known;
    let head = &mut record.path.head;
    fill_change(head, sock.step(len.wrapping_sub(1)), last, len);
    head.kind = KIND_STEPS;
    if wanted & EMIT_CLOSE != 0 {
        head.kind = KIND_CLOSE;
        head.peer_pid = sock.closed_by();
    }
    head.flags |= flags & FLAG_INFERRED;
    let ours = claim();
    submit_if(slot, ours);
    ours
}

/// Sends that a pair has left `TIME_WAIT`, at `now_ns`, if `claim` says that nobody else does.
/// `inferred`: `FLAG_INFERRED` or 0.
#[inline(always)]
pub(crate) fn time_wait_ended(
    pair: &TimeWaitRecord,
    now_ns: u64,
    inferred: u8,
    claim: impl FnOnce() -> bool,
) {
    if config!(emit) & EMIT_TRANSITION == 0 {
        claim();
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<Record>(0) else {
        let counter = if claim() {
            count::RING_FULL_TIME_WAIT
        } else {
            count::UNCLAIMED
        };
        maps::count(counter, 1);
        return;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    record.mono_ns = now_ns;
    record.conn = pair.conn;
    record.span_ns = now_ns.saturating_sub(pair.since_ns);
    copy(&mut record.owner, &pair.owner);
    copy(&mut record.laddr, &pair.tuple.laddr);
    copy(&mut record.raddr, &pair.tuple.raddr);
    record.netns = pair.netns;
    record.peer_pid = 0;
    record.lport = pair.tuple.lport;
    record.rport = pair.tuple.rport;
    record.kind = KIND_TRANSITION;
    record.old = tcp::TIME_WAIT;
    record.new = tcp::CLOSE;
    record.flags =
        (pair.flags & (FLAG_PARTIAL | FLAG_ROLE_INFERRED)) | pair.tuple.mapped | inferred;
    record.family = pair.tuple.family;
    record.role = pair.role;
    record.source = pair.source;
    record.seq = pair.seq;
    record.process = pair.process;
    if claim() {
        slot.submit(submit_flags(size_of::<Record>() as u64));
    } else {
        slot.discard(u64::from(BPF_RB_NO_WAKEUP));
        maps::count(count::UNCLAIMED, 1);
    }
}

/// Sends a record with numbers about a socket, at `now_ns`. `lost` is the counter of those that
/// found the ring full; `set` fills in what its kind says.
#[inline(always)]
pub(crate) fn detail(
    sock: &Sock,
    tuple: &Tuple,
    kind: u8,
    now_ns: u64,
    lost: usize,
    set: impl FnOnce(&mut Record, &mut [u32; 6]),
) {
    detail_if(sock, tuple, kind, now_ns, lost, set, || true);
}

/// The same, if `claim` says that nobody else does. Returns what it says.
#[inline(always)]
pub(crate) fn detail_if(
    sock: &Sock,
    tuple: &Tuple,
    kind: u8,
    now_ns: u64,
    lost: usize,
    set: impl FnOnce(&mut Record, &mut [u32; 6]),
    claim: impl FnOnce() -> bool,
) -> bool {
    let Some(mut slot) = EVENTS.reserve::<DetailRecord>(0) else {
        let ours = claim();
        maps::count(lost, u64::from(ours));
        return ours;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    fill(&mut record.head, sock, tuple);
    fill_words(&mut record.numbers, UNKNOWN);
    record.head.mono_ns = now_ns;
    record.head.kind = kind;
    record.head.old = sock.state();
    record.head.new = record.head.old;
    record.head.seq = 0;
    record.head.span_ns = SPAN_UNKNOWN;
    set(&mut record.head, &mut record.numbers);
    let ours = claim();
    submit_if(slot, ours);
    ours
}

/// Sends what goes wrong at a listener, at `now_ns`. `set` fills in the numbers; where half-open requests came from
/// is taken out of `origins`.
#[inline(always)]
pub(crate) fn listener(
    sock: &Sock,
    now_ns: u64,
    origins: &mut [Origin; ORIGINS],
    set: impl FnOnce(&mut Record, &mut [u32; 6]),
) {
    let Some(mut slot) = EVENTS.reserve::<ListenerRecord>(0) else {
        maps::count(count::RING_FULL_DETAIL, 1);
        return;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    let DetailRecord { head, numbers } = &mut record.noted;
    fill(head, sock, &sock.tuple);
    fill_words(numbers, UNKNOWN);
    head.mono_ns = now_ns;
    head.kind = KIND_LISTENER;
    head.old = sock.state();
    head.new = head.old;
    head.seq = 0;
    head.span_ns = SPAN_UNKNOWN;
    set(head, numbers);
    copy(&mut record.origins, origins);
    for origin in origins {
        origin.count = 0;
    }
    submit_if(slot, true);
}

/// Sends the steps from `from` on up to `len`, in one record; with the totals if the last leads to
/// `CLOSE`. The path may grow meanwhile: what comes after `len` is the next one's to send. False if nothing
/// is wanted of them.
#[inline(always)]
pub(crate) fn steps(sock: &Sock, from: u8, len: u8, accepted: Accepted) -> bool {
    let wanted = config!(emit);
    let Accepted { slot, reported } = accepted;
    let number = len.wrapping_sub(from);
    let index = len.wrapping_sub(1);
    let last = sock.step(index).state();
    let closes = tcp::is_end(last) && wanted & EMIT_CLOSE != 0;
    if wanted & EMIT_TRANSITION == 0 && !closes {
        return false;
    }
    if closes {
        let Some(mut place) = EVENTS.reserve::<CloseRecord>(0) else {
            count_lost(sock, number, reported, closes);
            return true;
        };
        // SAFETY: every field is written below before the record is submitted.
        let record = unsafe { &mut *place.as_mut_ptr() };
        fill_as(&mut record.path.head, sock, &sock.tuple, slot);
        fill_step(&mut record.path.head, sock, index);
        fill_path(&mut record.path, sock, [from, len], accepted);
        record.path.head.kind = KIND_CLOSE;
        record.path.head.peer_pid = sock.closed_by();
        copy(&mut record.counters, &sock.counters);
        place.submit(submit_flags(size_of::<CloseRecord>() as u64));
    } else if number > 1 || reported != 0 {
        let Some(mut place) = EVENTS.reserve::<PathRecord>(0) else {
            count_lost(sock, number, reported, closes);
            return true;
        };
        // SAFETY: every field is written below before the record is submitted.
        let record = unsafe { &mut *place.as_mut_ptr() };
        fill_as(&mut record.head, sock, &sock.tuple, slot);
        fill_step(&mut record.head, sock, index);
        fill_path(record, sock, [from, len], accepted);
        record.head.kind = KIND_STEPS;
        place.submit(submit_flags(size_of::<PathRecord>() as u64));
    } else {
        let Some(mut place) = EVENTS.reserve::<Record>(0) else {
            maps::count(count::RING_FULL_TRANSITION, 1);
            return true;
        };
        // SAFETY: every field is written below before the record is submitted.
        let record = unsafe { &mut *place.as_mut_ptr() };
        fill_as(record, sock, &sock.tuple, slot);
        fill_step(record, sock, index);
        place.submit(submit_flags(size_of::<Record>() as u64));
    }
    true
}

/// Sends that `accept()` returned the socket, at `now_ns`, if `claim` says that nobody else does.
/// Returns what it says. `backlog`: the accept queue of its listener and the limit.
#[inline(always)]
pub(crate) fn accept(
    sock: &Sock,
    now_ns: u64,
    backlog: [u32; 2],
    claim: impl FnOnce() -> bool,
) -> bool {
    detail_if(
        sock,
        &sock.tuple,
        KIND_ACCEPT,
        now_ns,
        count::RING_FULL_ACCEPT,
        |head, numbers| {
            head.peer_pid = sock.owners[0].tgid;
            head.seq = sock.path_len;
            // The queue is entered by the step into ESTABLISHED, the second of a child's path; with
            // Fast Open by the first (`tcp_conn_request`), which shows as long as there is no second.
            let second = u8::from(sock.path_len >= 2);
            let queued = sock.step(second);
            let state = if second != 0 {
                tcp::ESTABLISHED
            } else {
                tcp::SYN_RECV
            };
            if queued.state() == state && queued.mono_ns() != 0 {
                head.span_ns = now_ns.saturating_sub(queued.mono_ns());
            }
            numbers[0] = backlog[0];
            numbers[1] = backlog[1];
        },
        claim,
    )
}

/// Sends that another process has become the owner, which the record of the socket names already.
#[inline(always)]
pub(crate) fn owner(sock: &Sock, now_ns: u64, former: u32, how: u32, comm: [u64; 2]) {
    if config!(emit) & EMIT_OWNER == 0 {
        return;
    }
    detail_if(
        sock,
        &sock.tuple,
        KIND_OWNER,
        now_ns,
        count::RING_FULL_DETAIL,
        |head, numbers| {
            head.old = sock.state();
            head.new = sock.state();
            numbers[0] = former;
            numbers[1] = how;
            numbers[2] = comm[0] as u32;
            numbers[3] = (comm[0] >> 32) as u32;
            numbers[4] = comm[1] as u32;
            numbers[5] = (comm[1] >> 32) as u32;
        },
        || true,
    );
}

/// Sends the totals of a socket whose last transition went unseen, if `claim` says that nobody else
/// does. Returns what it says.
#[inline(always)]
pub(crate) fn deduced_close(
    sock: &Sock,
    now_ns: u64,
    accepted: Accepted,
    claim: impl FnOnce() -> bool,
) -> bool {
    if config!(emit) & EMIT_CLOSE == 0 {
        return claim();
    }
    let Some(mut slot) = EVENTS.reserve::<CloseRecord>(0) else {
        let ours = claim();
        maps::count(count::RING_FULL_CLOSE, u64::from(ours));
        maps::count(
            count::RING_FULL_ACCEPT,
            u64::from(accepted.reported & u8::from(ours)),
        );
        return ours;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    let head = &mut record.path.head;
    fill_as(head, sock, &sock.tuple, accepted.slot);
    head.mono_ns = now_ns;
    head.kind = KIND_CLOSE;
    head.peer_pid = sock.closed_by();
    head.old = sock.state();
    head.new = tcp::CLOSE;
    head.seq = sock.path_len;
    head.span_ns = SPAN_UNKNOWN;
    head.flags |= FLAG_DEDUCED | FLAG_INFERRED;
    fill_path(&mut record.path, sock, [sock.path_len; 2], accepted);
    copy(&mut record.counters, &sock.counters);
    let ours = claim();
    submit_if(slot, ours);
    ours
}
