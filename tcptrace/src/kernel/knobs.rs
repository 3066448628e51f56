//! What governs the queues of listeners in a network namespace, and what the kernel counts of them there.

use std::fs;

use super::netstat;

/// The settings and counters of one network namespace. What cannot be read is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Knobs {
    /// `net.core.somaxconn`
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`
    pub max_syn_backlog: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`
    pub abort_on_overflow: Option<bool>,
    /// `net.ipv4.tcp_syncookies`: 0 never, 1 when the queue is full, 2 always
    pub syncookies: Option<u32>,
    /// `TcpExt.ListenOverflows`: connections refused for a full accept queue
    pub overflows: Option<u64>,
    /// `TcpExt.SyncookiesSent`
    pub cookies_sent: Option<u64>,
}

impl Knobs {
    /// Of the calling thread's namespace.
    pub fn read() -> Self {
        let netstat = fs::read_to_string("/proc/thread-self/net/netstat").unwrap_or_default();
        Self {
            somaxconn: number("core/somaxconn"),
            max_syn_backlog: number("ipv4/tcp_max_syn_backlog"),
            abort_on_overflow: number("ipv4/tcp_abort_on_overflow").map(|on| on != 0),
            syncookies: number("ipv4/tcp_syncookies"),
            overflows: netstat::counter(&netstat, "ListenOverflows"),
            cookies_sent: netstat::counter(&netstat, "SyncookiesSent"),
        }
    }
}

fn number(path: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}
