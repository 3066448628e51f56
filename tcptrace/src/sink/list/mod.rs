//! The sockets that exist, to text: rows of a table, lines of JSON. Pure, like all sinks.

pub mod column;
pub mod json;
pub mod table;

use std::net::IpAddr;

use tcptrace_common::tcp;

use crate::{
    event::{Role, State},
    inventory::{
        Inventory, Past,
        holding::{Holding, Process},
        socket::{Counters, Socket},
    },
};

/// One socket, with all that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    inventory: &'a Inventory,
    place: u32,
    /// What the kernel says
    pub socket: &'a Socket,
}

impl<'a> Row<'a> {
    /// The socket at this place.
    pub fn new(inventory: &'a Inventory, place: u32) -> Option<Self> {
        let socket = inventory.socket(place)?;
        Some(Self {
            inventory,
            place,
            socket,
        })
    }

    /// All sockets, in the order in which they were found.
    pub fn all(inventory: &'a Inventory) -> impl Iterator<Item = Self> {
        (0..).map_while(|place| Self::new(inventory, place))
    }

    /// Where it is in the inventory.
    pub const fn place(&self) -> u32 {
        self.place
    }

    /// Its state.
    pub const fn state(&self) -> State {
        State(self.socket.state)
    }

    /// What the kernel counts.
    pub fn counters(&self) -> Option<&'a Counters> {
        self.inventory.counters(self.socket)
    }

    /// What a running tracer knows.
    pub fn past(&self) -> Option<&'a Past> {
        self.inventory.past(self.place)
    }

    /// Who opened it, as far as is known.
    pub fn role(&self) -> Role {
        if self.socket.is_listener() {
            Role::Listener
        } else if let Some(role) = self.past().and_then(|past| past.role) {
            role
        } else if self.socket.is_half_open() || self.socket.may_be_queued() {
            Role::Server
        } else {
            Role::Unknown
        }
    }

    /// The peer's address; none of a listener.
    pub fn remote(&self) -> Option<IpAddr> {
        (!self.socket.is_listener()).then_some(self.socket.remote)
    }

    /// Its network namespace.
    pub fn netns(&self) -> u64 {
        self.inventory.netns(self.socket)
    }

    /// Its descriptors, process by process, the owner's first.
    pub fn holdings(&self) -> &'a [Holding] {
        self.inventory.holdings.of(self.place)
    }

    /// Who holds it, the owner first.
    pub fn holders(&self) -> impl Iterator<Item = (&'a Process, &'a [Holding])> + use<'a> {
        let holdings = &self.inventory.holdings;
        self.holdings()
            .chunk_by(|one, next| one.process == next.process)
            .filter_map(|held| Some((holdings.process(*held.first()?)?, held)))
    }

    /// The owner, and how that is known.
    pub fn owner(&self) -> Option<Owner<'a>> {
        let known = self.past().and_then(|past| past.owner.as_ref());
        if let Some((process, _)) = self.holders().next() {
            let source = known
                .filter(|owner| owner.process.pid == process.pid)
                .map_or("snapshot", |owner| owner.source);
            return Some(Owner { process, source });
        }
        // A connection that somebody has closed is still his, for all that is known.
        if let Some(owner) = known {
            return Some(Owner {
                process: &owner.process,
                source: owner.source,
            });
        }
        // What nobody has accepted is its listener's.
        let listener = Self::new(self.inventory, self.socket.listener)?;
        let (process, _) = listener.holders().next()?;
        Some(Owner {
            process,
            source: "listener",
        })
    }

    /// Whether it is established, and still waits for `accept()`.
    pub fn is_queued(&self) -> bool {
        self.socket.may_be_queued()
    }

    /// Whether a listener takes no more: `sk_acceptq_is_full` lets one more in than its limit.
    pub const fn is_full(&self) -> bool {
        self.socket.is_listener() && self.socket.recv_queue > self.socket.send_queue
    }

    /// How long it has been waiting in the accept queue.
    pub fn waiting_us(&self) -> Option<u64> {
        self.inventory.found.waiting_us(self.socket)
    }

    /// The id of the listener that it waits at.
    pub fn listener(&self) -> Option<u64> {
        let listener = self.inventory.socket(self.socket.listener)?;
        Some(listener.cookie)
    }

    /// Of a listener, its requests that are half-open.
    pub fn half_open(&self) -> Option<u32> {
        self.inventory.half_open(self.place)
    }

    /// Since data moved either way, or since it was established.
    pub fn idle_us(&self) -> Option<u64> {
        let counters = self.moved()?;
        let ms = counters.last_sent_ms.min(counters.last_received_ms);
        Some(u64::from(ms) * 1000)
    }

    /// Since data was sent; none if none was.
    pub fn last_sent_us(&self) -> Option<u64> {
        let counters = self.moved().filter(|counters| counters.data_tx_segs > 0)?;
        Some(u64::from(counters.last_sent_ms) * 1000)
    }

    /// Since data was received; none if none was.
    pub fn last_received_us(&self) -> Option<u64> {
        let counters = self.moved().filter(|counters| counters.data_rx_segs > 0)?;
        Some(u64::from(counters.last_received_ms) * 1000)
    }

    /// Payload received in order. The kernel counts the peer's FIN as a byte.
    pub fn rx_bytes(&self, counters: &Counters) -> u64 {
        let fin = matches!(
            self.socket.state,
            tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING
        );
        counters.rx_bytes.saturating_sub(u64::from(fin))
    }

    /// Whether its handshake has been completed.
    pub const fn was_established(&self) -> bool {
        !matches!(
            self.socket.state,
            tcp::SYN_SENT | tcp::SYN_RECV | tcp::LISTEN | tcp::CLOSE
        )
    }

    /// Counters of what has been established: before, these times are since the kernel started.
    fn moved(&self) -> Option<&'a Counters> {
        self.counters().filter(|_| self.was_established())
    }

    /// Whether it has `SO_KEEPALIVE`. Where only the timer tells: it runs, or nothing else does that it would wait
    /// for.
    pub fn keepalive(&self) -> Option<bool> {
        use crate::inventory::socket::TimerKind;
        let open = matches!(self.socket.state, tcp::ESTABLISHED | tcp::CLOSE_WAIT);
        self.socket.keepalive.or(match self.socket.timer {
            TimerKind::Keepalive if open => Some(true),
            TimerKind::None if open => Some(false),
            _ => None,
        })
    }
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The process
    pub process: &'a Process,
    /// As `pid_source` in records
    pub source: &'static str,
}
