//! Putting one record into the ring, or counting that it did not fit.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use tcptrace_common::{
    config::{EMIT_ACCEPT, EMIT_CLOSE, EMIT_TRANSITION},
    count,
    record::{
        FLAG_DEDUCED, FLAG_FIRST, FLAG_PARTIAL, KIND_ACCEPT, KIND_CLOSE, KIND_STEPS,
        KIND_TRANSITION, PathRecord, Record, SPAN_UNKNOWN, Step,
    },
    tcp,
};

use crate::{
    constants::config,
    kernel::copy,
    maps::{self, ASLEEP, EVENTS},
    sock::Sock,
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

/// Wakes the agent without a record, so that it starts its timer for what is held.
#[inline(always)]
pub(crate) fn nudge() {
    if wake()
        && let Some(slot) = EVENTS.reserve::<u64>(0)
    {
        slot.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    }
}

/// Fills the part common to all records.
#[inline(always)]
pub(crate) fn fill(record: &mut Record, sock: &Sock, tuple: &Tuple) {
    let slot = usize::from(sock.slot & 1);
    let owner = &sock.owners[slot];
    record.conn = sock.conn;
    copy(&mut record.owner, owner);
    record.laddr = tuple.laddr;
    record.raddr = tuple.raddr;
    record.netns = sock.netns;
    record.peer_pid = 0;
    record.lport = tuple.lport;
    record.rport = tuple.rport;
    // Both are kept as the flags of a record, so that nothing branches here: the verifier
    // follows every branch of every hook.
    record.flags = (sock.flags & FLAG_PARTIAL) | tuple.mapped;
    record.family = tuple.family;
    record.role = sock.role;
    record.source = sock.sources[slot];
    record.reserved = 0;
}

/// Fills in the state change at `index` of the socket's path.
#[inline(always)]
pub(crate) fn fill_step(record: &mut Record, sock: &Sock, index: u8) {
    let step = sock.step(index);
    record.mono_ns = step.mono_ns();
    record.kind = KIND_TRANSITION;
    record.new = step.state();
    record.seq = index;
    // Of the first step the state before is `origin`, and how long it lasted nobody knows.
    let mut before = Step::new(0, sock.origin);
    if index != 0 {
        before = sock.step(index - 1);
    }
    record.old = before.state();
    record.span_ns = SPAN_UNKNOWN;
    if before.mono_ns() != 0 {
        record.span_ns = record.mono_ns - before.mono_ns();
    }
    if index == sock.first() {
        record.flags |= FLAG_FIRST;
    }
}

/// Fills in the path and the totals.
#[inline(always)]
fn fill_path(record: &mut PathRecord, sock: &Sock, untold: u8, len: u8) {
    copy(&mut record.path, &sock.path);
    record.accept_ns = sock.accept_ns;
    record.err = sock.err;
    record.path_len = len;
    record.shutdown = sock.shutdown;
    record.untold = untold;
    record.reserved = 0;
}

/// Sends the steps from `from` on up to `len`, in one record; with the totals if the last leads to
/// `CLOSE`. The path may grow meanwhile: what comes after `len` is the next one's to send.
#[inline(always)]
pub(crate) fn steps(sock: &Sock, from: u8, len: u8) {
    let wanted = config!(emit);
    let number = len.wrapping_sub(from);
    let index = len.wrapping_sub(1);
    let closes = sock.step(index).state() == tcp::CLOSE && wanted & EMIT_CLOSE != 0;
    if wanted & EMIT_TRANSITION == 0 && !closes {
        return;
    }
    if closes || number > 1 {
        let Some(mut slot) = EVENTS.reserve::<PathRecord>(0) else {
            if wanted & EMIT_TRANSITION != 0 {
                maps::count(count::RING_FULL_TRANSITION, u64::from(number));
            }
            maps::count(count::RING_FULL_CLOSE, u64::from(closes));
            return;
        };
        // SAFETY: every field is written below before the record is submitted.
        let record = unsafe { &mut *slot.as_mut_ptr() };
        fill(&mut record.head, sock, &sock.tuple);
        fill_step(&mut record.head, sock, index);
        fill_path(record, sock, from, len);
        record.head.kind = KIND_STEPS;
        if closes {
            record.head.kind = KIND_CLOSE;
            record.head.peer_pid = sock.closer;
        }
        slot.submit(submit_flags(size_of::<PathRecord>() as u64));
    } else {
        let Some(mut slot) = EVENTS.reserve::<Record>(0) else {
            maps::count(count::RING_FULL_TRANSITION, 1);
            return;
        };
        // SAFETY: every field is written below before the record is submitted.
        let record = unsafe { &mut *slot.as_mut_ptr() };
        fill(record, sock, &sock.tuple);
        fill_step(record, sock, index);
        slot.submit(submit_flags(size_of::<Record>() as u64));
    }
}

/// Sends that `accept()` returned the socket, at `now_ns`.
#[inline(always)]
pub(crate) fn accept(sock: &Sock, now_ns: u64) {
    if config!(emit) & EMIT_ACCEPT == 0 {
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<Record>(0) else {
        maps::count(count::RING_FULL_ACCEPT, 1);
        return;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    fill(record, sock, &sock.tuple);
    record.mono_ns = now_ns;
    record.kind = KIND_ACCEPT;
    record.peer_pid = sock.owners[0].tgid;
    record.old = sock.state();
    record.new = record.old;
    record.seq = sock.path_len;
    // The queue is entered by the step into ESTABLISHED: the second of a child's path.
    let queued = sock.step(1);
    record.span_ns = SPAN_UNKNOWN;
    if sock.path_len >= 2 && queued.state() == tcp::ESTABLISHED && queued.mono_ns() != 0 {
        record.span_ns = now_ns - queued.mono_ns();
    }
    slot.submit(submit_flags(size_of::<Record>() as u64));
}

/// Sends the totals of a socket whose last transition went unseen.
#[inline(always)]
pub(crate) fn deduced_close(sock: &Sock, now_ns: u64) {
    if config!(emit) & EMIT_CLOSE == 0 {
        return;
    }
    let Some(mut slot) = EVENTS.reserve::<PathRecord>(0) else {
        maps::count(count::RING_FULL_CLOSE, 1);
        return;
    };
    // SAFETY: every field is written below before the record is submitted.
    let record = unsafe { &mut *slot.as_mut_ptr() };
    fill(&mut record.head, sock, &sock.tuple);
    record.head.mono_ns = now_ns;
    record.head.kind = KIND_CLOSE;
    record.head.peer_pid = sock.closer;
    record.head.old = sock.state();
    record.head.new = tcp::CLOSE;
    record.head.seq = sock.path_len;
    record.head.span_ns = SPAN_UNKNOWN;
    record.head.flags |= FLAG_DEDUCED;
    fill_path(record, sock, sock.path_len, sock.path_len);
    slot.submit(submit_flags(size_of::<PathRecord>() as u64));
}
