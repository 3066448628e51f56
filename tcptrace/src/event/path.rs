//! The path of a connection: every state that it entered, as one record has it, and the events that were
//! deferred until that record.

use tcptrace_common::{
    record::{
        FLAG_DEDUCED, FLAG_FIRST, FLAG_HISTORY, FLAG_INFERRED, KIND_ACCEPT, KIND_TRANSITION,
        PathRecord, ROLE_SERVER, Record, SPAN_UNKNOWN, Step, UNKNOWN,
    },
    tcp,
};

use super::{Accept, Connection, Transition};

/// The steps in use.
pub(super) fn steps(path: &PathRecord) -> &[Step] {
    let len = usize::from(path.path_len).min(path.path.len());
    &path.path[..len]
}

/// Time in the accept queue; none if the connection was not accepted.
///
/// A connection is queued when it is established. With Fast Open it is when the SYN is here
/// (`tcp_conn_request` queues the child that `tcp_try_fastopen` returns), which shows if it
/// is accepted before it is established.
pub(super) fn accept_wait_us(path: &PathRecord) -> Option<u64> {
    if path.overlooked != 0 {
        return None;
    }
    let accept_ns = path.accept_ns;
    let entered = |state| steps(path).iter().find(move |step| step.state() == state);
    let queued = match entered(tcp::ESTABLISHED) {
        Some(established) if established.mono_ns() <= accept_ns => established,
        _ => entered(tcp::SYN_RECV)?,
    };
    // 0: that it was there is all that is known.
    let known = queued.mono_ns() != 0 && accept_ns != 0;
    let waited_ns = accept_ns.checked_sub(queued.mono_ns()).filter(|_| known)?;
    Some(waited_ns / 1000)
}

/// That `accept()` returned the connection, if no record has reported it yet.
pub(super) fn unreported_accept(path: &PathRecord) -> Option<Accept> {
    let is_deferred = path.accepted != 0;
    if !(is_deferred || path.head.flags & FLAG_HISTORY != 0)
        || path.head.role != ROLE_SERVER
        || path.accept_ns == 0
    {
        return None;
    }
    let mut numbers = [UNKNOWN; 6];
    let mut record = path.head;
    record.peer_pid = 0;
    if is_deferred {
        numbers[..2].copy_from_slice(&path.backlog);
        record.peer_pid = path.opener.tgid;
    }
    record.kind = KIND_ACCEPT;
    record.mono_ns = path.accept_ns;
    record.flags &= !(FLAG_FIRST | FLAG_INFERRED | FLAG_DEDUCED);
    if path.overlooked != 0 {
        record.flags |= FLAG_INFERRED;
    }
    record.old = tcp::ESTABLISHED;
    record.new = tcp::ESTABLISHED;
    record.span_ns = accept_wait_us(path).map_or(SPAN_UNKNOWN, |us| us.saturating_mul(1000));
    Some(Accept {
        head: Connection(record),
        numbers,
    })
}

/// The newest state change, with who owned the connection at that moment.
pub(super) fn newest(path: &PathRecord) -> Transition {
    owned(path, path.head)
}

/// A state change with who owned the connection at that moment: until it was accepted, whoever opened it.
fn owned(path: &PathRecord, mut record: Record) -> Transition {
    if path.has_opener != 0 && record.mono_ns < path.accept_ns {
        record.owner = path.opener;
        record.source = path.opener_source;
    }
    Transition {
        head: Connection(record),
        close: None,
    }
}

/// A step that was deferred until the last one.
pub(super) fn deferred(path: &PathRecord, index: usize) -> Transition {
    let mut record = path.head;
    let steps = steps(path);
    let (step, before) = (
        steps[index],
        index.checked_sub(1).map(|before| steps[before]),
    );
    record.kind = KIND_TRANSITION;
    record.mono_ns = step.mono_ns();
    record.new = step.state();
    record.span_ns = SPAN_UNKNOWN;
    record.peer_pid = 0;
    record.seq = u8::try_from(index).unwrap_or(u8::MAX);
    // How the last is known says nothing of this one.
    record.flags &= !(FLAG_FIRST | FLAG_INFERRED | FLAG_DEDUCED);
    if usize::from(path.first) == index {
        record.flags |= FLAG_FIRST;
    }
    if let Some(before) = before {
        record.old = before.state();
        if before.mono_ns() != 0 {
            record.span_ns = step.mono_ns().saturating_sub(before.mono_ns());
        }
    } else {
        // A life begins in CLOSE, or as a clone of a listener.
        record.old = match path.origin {
            0 if record.role == ROLE_SERVER => tcp::LISTEN,
            0 => tcp::CLOSE,
            origin => origin,
        };
    }
    owned(path, record)
}
