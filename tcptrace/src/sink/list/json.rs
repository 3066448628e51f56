//! One object for each socket, a `socket` record with more fields: `docs/list.md`.

use super::Row;
use crate::{
    inventory::{holding::Holding, holding::Process, socket::Counters},
    sink::{
        json::push_outside,
        text::{push_address, push_hex, push_number},
        time::Clock,
    },
};

/// Most lines are shorter.
const LINE_BYTES: usize = 1536;
const TCPI_OPT_TIMESTAMPS: u8 = 1;
const TCPI_OPT_SACK: u8 = 2;
const TCPI_OPT_WSCALE: u8 = 4;

macro_rules! number {
    ($out:expr, $key:literal, $number:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":").as_bytes());
        push_number($out, u64::from($number));
    }};
}

macro_rules! known {
    ($out:expr, $key:literal, $number:expr) => {
        if let Some(number) = $number {
            number!($out, $key, number);
        }
    };
}

/// A number of which 0 says that it is not known.
macro_rules! nonzero {
    ($out:expr, $key:literal, $number:expr) => {
        if $number != 0 {
            number!($out, $key, $number);
        }
    };
}

macro_rules! word {
    ($out:expr, $key:literal, $word:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        $out.extend_from_slice($word.as_bytes());
        $out.push(b'"');
    }};
}

macro_rules! address {
    ($out:expr, $key:literal, $address:expr) => {{
        $out.extend_from_slice(concat!(",\"", $key, "\":\"").as_bytes());
        push_address($out, $address);
        $out.push(b'"');
    }};
}

/// Writes sockets as NDJSON.
#[derive(Debug, Default)]
pub struct Json {
    /// What every line begins with
    head: Vec<u8>,
}

impl Json {
    /// `mono_ns`: when the sockets were looked at.
    pub fn new(clock: &mut Clock, mono_ns: u64) -> Self {
        let mut head = b"{\"v\":1,\"event\":\"socket\",\"ts\":\"".to_vec();
        clock.push_rfc3339(mono_ns, &mut head);
        head.extend_from_slice(b"\",\"mono_us\":");
        push_number(&mut head, mono_ns / 1000);
        Self { head }
    }

    /// Appends a line. `change`: what `--watch` says of it.
    pub fn row(
        &self,
        row: &Row<'_>,
        change: Option<&'static str>,
        executable: impl Fn(&Process) -> Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) {
        let socket = row.socket;
        out.reserve(LINE_BYTES);
        out.extend_from_slice(&self.head);
        if let Some(change) = change {
            word!(out, "change", change);
        }
        self.about(row, out);
        word!(out, "state", row.state().name());
        nonzero!(out, "inode", socket.inode);
        owners(row, executable, out);
        if socket.is_listener() {
            number!(out, "backlog", socket.recv_queue);
            number!(out, "backlog_max", socket.send_queue);
            known!(out, "half_open", row.half_open());
            number!(out, "half_open_max", socket.send_queue);
            known!(out, "drops", socket.memory.map(|memory| memory.drops));
        } else if !socket.is_half_open() && !socket.is_time_wait() {
            number!(out, "recv_queue_bytes", socket.recv_queue);
            number!(out, "send_queue_bytes", socket.send_queue);
        }
        if let Some(timer) = socket.timer.name() {
            word!(out, "timer", timer);
            number!(out, "timer_us", u64::from(socket.timer_ms) * 1000);
            number!(out, "timer_retries", socket.timer_retries);
        }
        known!(out, "idle_us", row.idle_us());
        known!(out, "last_sent_us", row.last_sent_us());
        known!(out, "last_received_us", row.last_received_us());
        known!(out, "age_us", row.past().and_then(|past| past.age_us));
        known!(
            out,
            "in_state_us",
            row.past().and_then(|past| past.in_state_us)
        );
        if let Some(keepalive) = row.keepalive() {
            out.extend_from_slice(if keepalive {
                b",\"keepalive\":true".as_slice()
            } else {
                b",\"keepalive\":false".as_slice()
            });
        }
        if row.is_queued() {
            out.extend_from_slice(b",\"accepted\":false");
            known!(out, "waiting_us", row.waiting_us());
        }
        if let Some(listener) = row.listener() {
            out.extend_from_slice(b",\"listener_conn\":\"");
            push_hex(out, listener);
            out.push(b'"');
        }
        if let Some(known) = row.counters() {
            counters(row, known, out);
        }
        out.extend_from_slice(b"}\n");
    }

    #[expect(clippy::unused_self, reason = "it stands beside what begins the line")]
    fn about(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        let socket = row.socket;
        out.extend_from_slice(b",\"conn\":\"");
        push_hex(out, socket.cookie);
        out.push(b'"');
        word!(out, "role", row.role().name());
        word!(
            out,
            "family",
            if socket.local.is_ipv4() {
                "ipv4"
            } else {
                "ipv6"
            }
        );
        if socket.mapped {
            out.extend_from_slice(b",\"mapped\":true");
        }
        address!(out, "laddr", socket.local);
        number!(out, "lport", socket.lport);
        if let Some(remote) = row.remote() {
            address!(out, "raddr", remote);
            number!(out, "rport", socket.rport);
        }
        if let Some(owner) = row.owner() {
            number!(out, "pid", owner.process.pid);
            push_comm(owner.process, out);
            known!(out, "uid", owner.process.uid);
            word!(out, "pid_source", owner.source);
        } else {
            word!(out, "pid_source", "unknown");
        }
        number!(out, "netns", row.netns());
        if socket.cgroup != 0 {
            out.extend_from_slice(b",\"cgroup\":\"");
            push_number(out, socket.cgroup);
            out.push(b'"');
        }
    }
}

/// Text from outside, behind its key.
pub(in crate::sink) fn outside(out: &mut Vec<u8>, key: &[u8], text: &[u8]) {
    out.extend_from_slice(key);
    push_outside(out, text);
}

fn push_comm(process: &Process, out: &mut Vec<u8>) {
    if !process.comm().is_empty() {
        outside(out, b",\"comm\":", process.comm());
    }
}

fn owners(row: &Row<'_>, executable: impl Fn(&Process) -> Option<Vec<u8>>, out: &mut Vec<u8>) {
    if row.holdings().is_empty() {
        return;
    }
    out.extend_from_slice(b",\"owners\":[");
    for (nth, (process, held)) in row.holders().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"pid\":");
        push_number(out, process.pid.into());
        push_comm(process, out);
        if let Some(path) = executable(process) {
            outside(out, b",\"exe\":", &path);
        }
        known!(out, "uid", process.uid);
        out.extend_from_slice(b",\"fds\":[");
        for (nth, Holding { fd, .. }) in held.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            push_number(out, u64::from(*fd));
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b']');
}

/// As in `close`, and what only `tcp_info` tells.
fn counters(row: &Row<'_>, counters: &Counters, out: &mut Vec<u8>) {
    number!(out, "tx_bytes", counters.tx_bytes);
    number!(out, "rx_bytes", row.rx_bytes(counters));
    number!(out, "retrans_bytes", counters.retrans_bytes);
    number!(out, "tx_segs", counters.tx_segs);
    number!(out, "rx_segs", counters.rx_segs);
    number!(out, "retransmits", counters.retransmits);
    number!(out, "unacked", counters.unacked);
    number!(out, "lost_segs", counters.lost);
    number!(out, "unsent_bytes", counters.unsent_bytes);
    nonzero!(out, "rto_us", counters.rto_us);
    if !row.was_established() {
        return;
    }
    nonzero!(out, "srtt_us", counters.srtt_us);
    nonzero!(out, "rttvar_us", counters.rttvar_us);
    nonzero!(out, "min_rtt_us", counters.min_rtt_us);
    number!(out, "mss", counters.mss);
    number!(out, "cwnd", counters.cwnd);
    nonzero!(out, "ssthresh", counters.ssthresh);
    if !counters.congestion().is_empty() {
        outside(out, b",\"congestion\":", counters.congestion());
    }
    let options = [
        (TCPI_OPT_SACK, "sack"),
        (TCPI_OPT_TIMESTAMPS, "timestamps"),
        (TCPI_OPT_WSCALE, "wscale"),
    ];
    let mut agreed = options
        .iter()
        .filter(|(bit, _)| counters.options & bit != 0)
        .peekable();
    if counters.options & TCPI_OPT_WSCALE != 0 {
        number!(out, "snd_wscale", counters.wscales & 15);
        number!(out, "rcv_wscale", counters.wscales >> 4);
    }
    out.extend_from_slice(b",\"options\":[");
    while let Some((_, name)) = agreed.next() {
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
        if agreed.peek().is_some() {
            out.push(b',');
        }
    }
    out.push(b']');
}
