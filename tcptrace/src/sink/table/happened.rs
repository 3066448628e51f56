//! What happened to a connection besides its steps, in words.

use std::io::Write as _;

use crate::sink::pen::push;
use crate::{
    event::{Accept, How, Listener, Open, Owner, Phase, Reset, Retransmit, Segment, Slow},
    sink::text::{count, duration, escape, push_duration, push_network, push_number},
};

/// It was taken from the accept queue.
pub(super) fn accepted(accept: &Accept, out: &mut Vec<u8>) {
    push(out, "accepted");
    if let Some(us) = accept.wait_us() {
        push(out, " after ");
        push_duration(out, us);
        push(out, " in the queue");
    }
    if let Some(listener) = accept
        .listener_pid()
        .filter(|pid| accept.connection().pid() != Some(*pid))
    {
        push(out, " of ");
        push_number(out, listener.into());
    }
    if let (Some(queued), Some(limit)) = (accept.backlog(), accept.backlog_max())
        && queued > 0
    {
        // Writing to memory does not fail.
        let _infallible = write!(out, " · {queued} still queued (limit {limit})");
    }
}

/// A segment was sent again.
pub(super) fn sent_again(retransmit: &Retransmit) -> String {
    let what = match retransmit.segment() {
        Segment::Syn => "SYN",
        Segment::Synack => "SYN-ACK",
        Segment::Data => "a segment",
    };
    let mut remark = format!("{what} sent again in {}", retransmit.state().name());
    if let Some(times) = retransmit.count() {
        remark.push_str(" · ");
        remark.push_str(&count(times.into()));
        remark.push_str(" so far");
    }
    remark
}

/// A reset was sent or came, for a reason the kernel may name.
pub(super) fn reset(reset: &Reset, reason: Option<&str>) -> String {
    let state = reset.state().name();
    let inferred = if reset.is_inferred() { "~" } else { "" };
    let mut remark = format!("RST {}{inferred} in {state}", reset.direction().name());
    if let Some(reason) = reason {
        remark.push_str(" (");
        remark.push_str(&escape(reason.as_bytes()));
        remark.push(')');
    }
    remark
}

/// It still waits when the limit has passed.
pub(super) fn slow(slow: &Slow) -> String {
    let what = match slow.phase() {
        Phase::Connect => "SYN-ACK",
        Phase::Accept => "accept()",
    };
    let mut remark = format!("still waiting for {what}");
    if let Some(us) = slow.waiting_us() {
        remark.push_str(" after ");
        remark.push_str(&duration(us));
    }
    match slow.syn_retransmits() {
        None | Some(0) => {}
        Some(1) => remark.push_str(" · SYN sent again once"),
        Some(times) => {
            remark.push_str(" · SYN sent again ");
            remark.push_str(&count(times.into()));
            remark.push_str(" times");
        }
    }
    if let Some((queued, limit)) = slow.backlog() {
        let words = format!(" · {queued} in the accept queue (limit {limit})");
        remark.push_str(&words);
    }
    remark
}

/// It is still open as the trace ends.
pub(super) fn still_open(open: &Open) -> String {
    let age = open.age_us();
    let mut remark = match age {
        Some(us) => format!("still open after {}", duration(us)),
        None => "still open".to_owned(),
    };
    remark.push_str(" · ");
    remark.push_str(open.state().name());
    if let Some(us) = open.in_state_us() {
        remark.push(' ');
        remark.push_str(&duration(us));
    }
    remark
}

/// Another process has become the owner.
pub(super) fn handed_over(owner: &Owner) -> String {
    let from = match owner.old_pid() {
        Some(pid) => format!(" from {pid} {}", escape(&owner.old_comm())),
        None => String::new(),
    };
    let how = match owner.how() {
        How::Fork => ", its child",
        How::Passed => ", by a descriptor passed",
        How::Unknown => "",
    };
    format!("owner changed{from}{how}")
}

/// What goes wrong at a listener.
pub(super) fn trouble(listener: &Listener) -> String {
    let mut parts = Vec::new();
    let many = |number: u32, one: &str, more: &str| {
        format!(
            "{} {}",
            count(number.into()),
            if number == 1 { one } else { more }
        )
    };
    let some = |number: Option<u32>| number.filter(|number| *number > 0);
    let limit = listener.backlog_max();
    if let Some(queued) = some(listener.backlog()) {
        let limit = limit.unwrap_or(u32::MAX);
        // `sk_acceptq_is_full` lets one more in than the limit.
        let full = if queued > limit { " full" } else { "" };
        parts.push(format!(
            "accept queue{full}: {queued} queued (limit {limit})"
        ));
    }
    if let Some(half_open) = some(listener.half_open()) {
        let limit = limit.map_or_else(String::new, |limit| format!(" (limit {limit})"));
        parts.push(format!("{half_open} half-open{limit}"));
    }
    if let Some(dropped) = some(listener.dropped()) {
        parts.push(format!("{} dropped", count(dropped.into())));
    }
    if let Some(unanswered) = some(listener.unanswered()) {
        parts.push(many(
            unanswered,
            "SYN-ACK unanswered",
            "SYN-ACKs unanswered",
        ));
    }
    if let Some(cookies) = some(listener.cookies_sent()) {
        parts.push(many(cookies, "SYN cookie sent", "SYN cookies sent"));
    }
    let mut origins = listener.half_open_from().peekable();
    if origins.peek().is_some() {
        let mut from = Vec::new();
        push(&mut from, "half-open from");
        for (nth, (network, number)) in origins.enumerate() {
            push(&mut from, if nth == 0 { " " } else { ", " });
            push_network(&mut from, network);
            push(&mut from, " ×");
            push_number(&mut from, number.into());
        }
        parts.push(String::from_utf8_lossy(&from).into_owned());
    }
    if let Some(us) = listener.not_accepted_us() {
        parts.push(format!("no accept() for {}", duration(us)));
    }
    parts.join(" · ")
}
