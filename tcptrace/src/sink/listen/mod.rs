//! Listeners and their queues, to text: one row for each address that somebody listens on.

pub mod json;
pub mod table;
mod trouble;

use std::collections::BTreeMap;

use super::list::Row;
use crate::{
    inventory::{Inventory, doing::Doing, holding::Process, queue::Queue},
    kernel::knobs::Knobs,
};

/// An address that somebody listens on, with all its sockets (`SO_REUSEPORT` makes several).
#[derive(Clone, Debug)]
pub struct Listening<'a> {
    /// Its sockets
    pub rows: Vec<Row<'a>>,
    /// What waits at them
    pub queue: Queue,
    /// What governs them
    pub knobs: Knobs,
    /// What its owner is doing, where that was looked at
    pub doing: Doing,
    /// What has happened since the last look; none the first time
    pub since: Option<Since>,
}

/// What has happened at an address between two looks.
#[derive(Clone, Debug, Default)]
pub struct Since {
    /// Between the two looks
    pub us: u64,
    /// Connections accepted; none where that is not seen
    pub accepts: Option<u64>,
    /// How long they had waited: half of them less, all but one in a hundred less
    pub wait_us: Option<(u64, u64)>,
    /// The most that waited at one of its sockets at any time
    pub deepest: Option<u32>,
    /// Since somebody last accepted, as far as we have been looking
    pub not_accepted_us: Option<u64>,
    /// Dropped, for whatever reason
    pub dropped: u64,
    /// Of these, for a full accept queue; none if they may be another listener's
    pub overflowed: Option<u64>,
    /// SYN cookies sent in its network namespace
    pub cookies_sent: Option<u64>,
}

/// What limits an accept queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The argument of `listen()`
    Listen,
    /// `net.core.somaxconn`
    Somaxconn,
}

impl LimitedBy {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Somaxconn => "somaxconn",
        }
    }
}

impl<'a> Listening<'a> {
    /// Every address that somebody listens on, in the order of namespaces, ports and addresses.
    pub fn all(
        inventory: &'a Inventory,
        wanted: impl Fn(&Row<'a>) -> bool,
        knobs: &[Knobs],
    ) -> Vec<Self> {
        let mut addresses: BTreeMap<_, Vec<Row<'a>>> = BTreeMap::new();
        let listeners = Row::all(inventory).filter(|row| row.socket.is_listener());
        for row in listeners {
            let socket = row.socket;
            let key = (socket.netns, socket.lport, socket.local, socket.interface);
            addresses.entry(key).or_default().push(row);
        }
        addresses
            .into_iter()
            .filter(|(_, rows)| rows.iter().any(&wanted))
            .map(|((netns, ..), rows)| Self {
                queue: inventory.queue(rows.iter().map(Row::place)),
                knobs: knobs.get(usize::from(netns)).copied().unwrap_or_default(),
                rows,
                doing: Doing::default(),
                since: None,
            })
            .collect()
    }

    /// Connections that wait for `accept()`.
    pub fn backlog(&self) -> u64 {
        self.rows
            .iter()
            .map(|row| u64::from(row.socket.recv_queue))
            .sum()
    }

    /// How many may; of several sockets all together.
    pub fn backlog_max(&self) -> u64 {
        self.rows
            .iter()
            .map(|row| u64::from(row.socket.send_queue))
            .sum()
    }

    /// Whether one of its sockets takes no more.
    pub fn is_full(&self) -> bool {
        self.rows.iter().any(Row::is_full)
    }

    /// What sets the limit of its first socket.
    pub fn limited_by(&self) -> Option<LimitedBy> {
        let limit = self.rows.first()?.socket.send_queue;
        Some(if limit < self.knobs.somaxconn? {
            LimitedBy::Listen
        } else {
            LimitedBy::Somaxconn
        })
    }

    /// What the kernel dropped of what was sent to it, since it listens.
    pub fn drops(&self) -> Option<u64> {
        let mut drops = self
            .rows
            .iter()
            .map(|row| row.socket.memory.map(|memory| memory.drops));
        drops.try_fold(0, |sum, drops| Some(sum + u64::from(drops?)))
    }

    /// Every process that has one of its sockets open, each once.
    pub fn holders(&self) -> Vec<&'a Process> {
        let mut holders: Vec<&Process> = Vec::new();
        for (process, _) in self.rows.iter().flat_map(Row::holders) {
            if holders.iter().all(|known| known.pid != process.pid) {
                holders.push(process);
            }
        }
        holders
    }

    /// Whether somebody should look at it.
    pub fn is_troubled(&self) -> bool {
        /// So long nobody should wait for `accept()`.
        const LONG_US: u64 = 1_000_000;
        self.is_full()
            || self.is_flooded()
            || self.queue.oldest_us.is_some_and(|us| us >= LONG_US)
            || self.since.as_ref().is_some_and(|since| since.dropped > 0)
    }

    /// Whether it has as many half-open requests as it may (`inet_csk_reqsk_queue_is_full`).
    pub fn is_flooded(&self) -> bool {
        let limit = self.backlog_max();
        limit > 0 && u64::from(self.queue.half_open) >= limit
    }
}
