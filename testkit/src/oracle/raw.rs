//! What `trace_pipe_raw` holds: pages of records.
//!
//! The text form of a trace leaves out the address of the socket, by which the steps of one connection hang
//! together.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::{Step, state};
use crate::confinement;

/// `events/header_page`: what precedes the records on a page.
pub(super) struct PageLayout {
    commit_at: usize,
    commit_size: usize,
    data_at: usize,
    pub(super) size: usize,
}

impl PageLayout {
    pub(super) fn parse(format: &str) -> Self {
        let (commit_at, commit_size) = field(format, "commit");
        let (data_at, data_size) = field(format, "data");
        Self {
            commit_at,
            commit_size,
            data_at,
            size: data_at + data_size,
        }
    }

    /// Calls `each` with every record and its time. The encoding is described in the kernel's
    /// `include/linux/ring_buffer.h`.
    pub(super) fn decode(&self, page: &[u8], mut each: impl FnMut(u64, &[u8])) {
        const PADDING: u32 = 29;
        const TIME_EXTEND: u32 = 30;
        const TIME_STAMP: u32 = 31;
        const MISSED_EVENTS: u64 = 1 << 31;
        const LENGTH: u64 = (1 << 27) - 1;

        let word = |at: usize| u32::from_ne_bytes(page[at..at + 4].try_into().unwrap());
        let mut at_ns = u64::from_ne_bytes(page[..8].try_into().unwrap());
        let commit = match self.commit_size {
            8 => u64::from_ne_bytes(page[self.commit_at..][..8].try_into().unwrap()),
            _ => word(self.commit_at).into(),
        };
        assert_eq!(
            commit & MISSED_EVENTS,
            0,
            "not checked: ftrace itself lost events"
        );
        let end = self.data_at + usize::try_from(commit & LENGTH).unwrap();
        let mut at = self.data_at;
        while at < end {
            let head = word(at);
            let (kind, delta) = (head & 31, u64::from(head >> 5));
            at += 4;
            match kind {
                PADDING if delta == 0 => break,
                PADDING => {
                    at_ns += delta;
                    at += word(at) as usize;
                }
                TIME_EXTEND => {
                    at_ns += delta + (u64::from(word(at)) << 27);
                    at += 4;
                }
                TIME_STAMP => {
                    at_ns = delta + (u64::from(word(at)) << 27);
                    at += 4;
                }
                _ => {
                    at_ns += delta;
                    let len = if kind == 0 {
                        let len = word(at) as usize - 4;
                        at += 4;
                        len
                    } else {
                        kind as usize * 4
                    };
                    each(at_ns, &page[at..at + len]);
                    at += len.next_multiple_of(4);
                }
            }
        }
    }
}

/// Where the fields of the event are.
pub(super) struct Fields {
    id: u16,
    pid: usize,
    /// Threads of the first process
    first: Vec<u32>,
    sk: usize,
    old: usize,
    new: usize,
    sport: usize,
    dport: usize,
    family: usize,
    saddr: usize,
    daddr: usize,
    saddr_v6: usize,
    daddr_v6: usize,
}

impl Fields {
    pub(super) fn parse(format: &str) -> Self {
        let at = |name| field(format, name).0;
        Self {
            id: id_of(format),
            pid: at("common_pid"),
            first: threads_of_the_first(),
            sk: at("skaddr"),
            old: at("oldstate"),
            new: at("newstate"),
            sport: at("sport"),
            dport: at("dport"),
            family: at("family"),
            saddr: at("saddr[4]"),
            daddr: at("daddr[4]"),
            saddr_v6: at("saddr_v6[16]"),
            daddr_v6: at("daddr_v6[16]"),
        }
    }

    pub(super) fn decode(&self, at_ns: u64, record: &[u8]) -> Option<Step> {
        let short = |at: usize| u16::from_ne_bytes(record[at..at + 2].try_into().unwrap());
        if short(0) != self.id {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
        let four = |at: usize| <[u8; 4]>::try_from(&record[at..at + 4]).unwrap();
        let sixteen = |at: usize| <[u8; 16]>::try_from(&record[at..at + 16]).unwrap();
        // A cloned socket that speaks IPv4 through IPv6 has its IPv4 addresses first.
        let addr = |v4: usize, v6: usize| {
            let long = Ipv6Addr::from(sixteen(v6)).to_canonical();
            let is_v6 = i32::from(short(self.family)) == libc::AF_INET6;
            if is_v6 && (!long.is_unspecified() || four(v4) == [0; 4]) {
                long
            } else {
                IpAddr::from(four(v4))
            }
        };
        Some(Step {
            at_ns,
            sk: u64::from_ne_bytes(record[self.sk..self.sk + 8].try_into().unwrap()),
            old: state(word(self.old)),
            new: state(word(self.new)),
            local: SocketAddr::new(addr(self.saddr, self.saddr_v6), short(self.sport)),
            remote: SocketAddr::new(addr(self.daddr, self.daddr_v6), short(self.dport)),
            time_wait: false,
            over_first: self.first.contains(&word(self.pid)),
        })
    }
}

/// Empty in a guest.
fn threads_of_the_first() -> Vec<u32> {
    if confinement::in_guest() {
        return Vec::new();
    }
    let threads = fs::read_dir("/proc/1/task").unwrap().flatten();
    let ids = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    ids.collect()
}

/// By which a record says what event it is.
pub(super) fn id_of(format: &str) -> u16 {
    let id = format.lines().find_map(|line| line.strip_prefix("ID: "));
    id.unwrap().parse().unwrap()
}

/// Offset and size of a field in a tracefs `format` file.
fn field(format: &str, name: &str) -> (usize, usize) {
    let line = format
        .lines()
        .find(|line| {
            let declaration = line.trim_start().strip_prefix("field:");
            declaration
                .and_then(|line| line.split(';').next())
                .is_some_and(|line| line.ends_with(&format!(" {name}")))
        })
        .unwrap_or_else(|| panic!("no field {name} in\n{format}"));
    let number = |key: &str| {
        let rest = line.split_once(key).unwrap().1;
        rest.split(';').next().unwrap().parse().unwrap()
    };
    (number("offset:"), number("size:"))
}
