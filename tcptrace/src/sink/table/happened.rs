//! What happened to a connection besides its steps, in words.

use std::io::Write as _;

use crate::sink::pen::push;
use crate::{
    event::{Connection, Numbers},
    sink::text::{count, duration, escape, push_duration, push_number},
};

/// It was taken from the accept queue.
pub(super) fn accepted(connection: &Connection, numbers: &Numbers, out: &mut Vec<u8>) {
    push(out, "accepted");
    if let Some(us) = connection.span_us() {
        push(out, " after ");
        push_duration(out, us);
        push(out, " in the queue");
    }
    if let Some(listener) = connection
        .peer_pid()
        .filter(|pid| connection.pid() != Some(*pid))
    {
        push(out, " of ");
        push_number(out, listener.into());
    }
    if let (Some(queued), Some(limit)) = (numbers.backlog(), numbers.backlog_max())
        && queued > 0
    {
        // Writing to memory does not fail.
        let _infallible = write!(out, " · {queued} more wait, of at most {limit}");
    }
}

/// A segment was sent again.
pub(super) fn sent_again(connection: &Connection, numbers: &Numbers) -> String {
    let what = match connection.retransmitted() {
        "syn" => "SYN",
        "synack" => "SYN-ACK",
        _ => "a segment",
    };
    let mut remark = format!("{what} sent again in {}", connection.oldstate().name());
    if let Some(times) = numbers.count() {
        remark.push_str(" · ");
        remark.push_str(&count(times.into()));
        remark.push_str(" so far");
    }
    remark
}

/// A reset was sent or came, for a reason the kernel may name.
pub(super) fn reset(connection: &Connection, reason: Option<&str>) -> String {
    let state = connection.oldstate().name();
    let inferred = if connection.is_inferred() { "~" } else { "" };
    let mut remark = format!("RST {}{inferred} in {state}", connection.direction());
    if let Some(reason) = reason {
        remark.push_str(" (");
        remark.push_str(&escape(reason.as_bytes()));
        remark.push(')');
    }
    remark
}

/// What goes wrong at a listener.
pub(super) fn trouble(connection: &Connection, numbers: &Numbers) -> String {
    let mut parts = Vec::new();
    let many = |number: u32, one: &str, more: &str| {
        format!(
            "{} {}",
            count(number.into()),
            if number == 1 { one } else { more }
        )
    };
    let some = |number: Option<u32>| number.filter(|number| *number > 0);
    let limit = numbers.backlog_max();
    if let Some(queued) = some(numbers.backlog()) {
        let limit = limit.unwrap_or(u32::MAX);
        // `sk_acceptq_is_full` lets one more in than the limit.
        parts.push(if queued > limit {
            format!("accept queue full ({queued}, limit {limit})")
        } else {
            format!("{queued} of {limit} wait for accept()")
        });
    }
    if let Some(half_open) = some(numbers.half_open()) {
        let of = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        parts.push(format!("{half_open}{of} half-open"));
    }
    if let Some(dropped) = some(numbers.dropped()) {
        parts.push(format!("{} dropped", count(dropped.into())));
    }
    if let Some(unanswered) = some(numbers.unanswered()) {
        parts.push(many(
            unanswered,
            "SYN-ACK unanswered",
            "SYN-ACKs unanswered",
        ));
    }
    if let Some(cookies) = some(numbers.cookies_sent()) {
        parts.push(many(cookies, "SYN cookie sent", "SYN cookies sent"));
    }
    if let Some(us) = connection.span_us() {
        parts.push(format!("no accept() for {}", duration(us)));
    }
    parts.join(" · ")
}
