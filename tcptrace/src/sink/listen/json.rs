//! One object for each address, a `listener` record with more fields: `docs/listen.md`.

use serde::Serialize;

use super::Listening;
use crate::sink::{
    list::json::outside,
    text::{push_address, push_hex, push_number},
    time::Clock,
};

/// What follows who it is; what is not known is left out.
#[derive(Serialize)]
struct Numbers<'a> {
    sockets: usize,
    backlog: u64,
    backlog_max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limited_by: Option<&'static str>,
    half_open: u32,
    half_open_max: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    somaxconn: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_syn_backlog: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    abort_on_overflow: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    syncookies: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_wait_p50_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_wait_p99_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backlog_deepest: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_accepted_us: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overflowed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cookies_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
}

/// Appends a line.
pub fn row(
    listening: &Listening<'_>,
    trouble: Option<&str>,
    clock: &mut Clock,
    mono_ns: u64,
    out: &mut Vec<u8>,
) {
    let Some(first) = listening.rows.first() else {
        return;
    };
    let socket = first.socket;
    let begin = out.len();
    out.extend_from_slice(b"{\"v\":1,\"event\":\"listener\",\"ts\":\"");
    clock.push_rfc3339(mono_ns, out);
    out.extend_from_slice(b"\",\"mono_us\":");
    push_number(out, mono_ns / 1000);
    out.extend_from_slice(b",\"conn\":\"");
    push_hex(out, socket.cookie);
    out.extend_from_slice(b"\",\"role\":\"listener\",\"family\":\"");
    out.extend_from_slice(if socket.local.is_ipv4() {
        b"ipv4"
    } else {
        b"ipv6"
    });
    out.extend_from_slice(if socket.mapped {
        b"\",\"mapped\":true,\"laddr\":\"".as_slice()
    } else {
        b"\",\"laddr\":\"".as_slice()
    });
    push_address(out, socket.local);
    out.extend_from_slice(b"\",\"lport\":");
    push_number(out, socket.lport.into());
    let holders = listening.holders();
    let process = |out: &mut Vec<u8>, comma: bool, process: &crate::inventory::holding::Process| {
        out.extend_from_slice(if comma { b",\"pid\":" } else { b"\"pid\":" });
        push_number(out, process.pid.into());
        if !process.comm().is_empty() {
            outside(out, b",\"comm\":", process.comm());
        }
        if let Some(uid) = process.uid {
            out.extend_from_slice(b",\"uid\":");
            push_number(out, uid.into());
        }
    };
    if let Some(owner) = holders.first() {
        process(out, true, owner);
        out.extend_from_slice(b",\"pid_source\":\"snapshot\"");
    } else {
        out.extend_from_slice(b",\"pid_source\":\"unknown\"");
    }
    out.extend_from_slice(b",\"netns\":");
    push_number(out, first.netns());
    if !holders.is_empty() {
        out.extend_from_slice(b",\"owners\":[");
        for (nth, holder) in holders.iter().enumerate() {
            out.extend_from_slice(if nth == 0 { b"{" } else { b",{" });
            process(out, false, holder);
            out.push(b'}');
        }
        out.push(b']');
    }
    let joint = out.len();
    // Writing plain values to memory does not fail; a line must be whole or absent.
    if serde_json::to_writer(&mut *out, &numbers(listening, trouble)).is_err() {
        out.truncate(begin);
        return;
    }
    if let Some(brace) = out.get_mut(joint) {
        *brace = b',';
    }
    out.push(b'\n');
}

fn numbers<'a>(listening: &Listening<'_>, trouble: Option<&'a str>) -> Numbers<'a> {
    let since = listening.since.as_ref();
    let knobs = listening.knobs;
    Numbers {
        sockets: listening.rows.len(),
        backlog: listening.backlog(),
        backlog_max: listening.backlog_max(),
        limited_by: listening.limited_by().map(super::LimitedBy::name),
        half_open: listening.queue.half_open,
        half_open_max: listening.backlog_max(),
        waiting_us: listening.queue.oldest_us,
        drops: listening.drops(),
        somaxconn: knobs.somaxconn,
        max_syn_backlog: knobs.max_syn_backlog,
        abort_on_overflow: knobs.abort_on_overflow,
        syncookies: knobs.syncookies,
        interval_us: since.map(|since| since.us),
        accepts: since.and_then(|since| since.accepts),
        accept_wait_p50_us: since.and_then(|since| since.wait_us).map(|(half, _)| half),
        accept_wait_p99_us: since.and_then(|since| since.wait_us).map(|(_, most)| most),
        backlog_deepest: since.and_then(|since| since.deepest),
        not_accepted_us: since.and_then(|since| since.not_accepted_us),
        dropped: since.map(|since| since.dropped),
        overflowed: since.and_then(|since| since.overflowed),
        cookies_sent: since.and_then(|since| since.cookies_sent),
        trouble,
    }
}
