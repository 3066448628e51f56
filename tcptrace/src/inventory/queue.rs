//! Which listener a connection waits at: one that nobody has accepted, or a half-open request.

use std::collections::{HashMap, HashSet};

use super::{dump::Found, socket::Socket};

/// Who waits at the listeners.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By the place of the only listener that it can be
    one: HashMap<u32, Queue>,
    /// By the place of the first of several on one address, any of which it can be
    shared: HashMap<u32, Queue>,
    /// Listeners with a request that may be another's, on another address
    unclear: HashSet<u32>,
}

/// What waits at one listener, or at one of several on the same address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Half-open requests
    pub half_open: u32,
    /// How long the oldest connection has been waiting for `accept()`, where that is known
    pub oldest_us: Option<u64>,
}

impl Queue {
    fn add(&mut self, socket: &Socket, waiting_us: Option<u64>) {
        self.half_open += u32::from(socket.is_half_open());
        self.oldest_us = self.oldest_us.max(waiting_us);
    }

    fn join(self, other: Self) -> Self {
        Self {
            half_open: self.half_open + other.half_open,
            oldest_us: self.oldest_us.max(other.oldest_us),
        }
    }
}

impl Waiting {
    /// Sets `Socket::listener` of all that wait, where it can be but one.
    pub(super) fn tie(found: &mut Found) -> Self {
        let mut listeners: HashMap<(u16, u16), Vec<u32>> = HashMap::new();
        for (place, socket) in (0..).zip(&found.sockets) {
            if socket.is_listener() {
                let key = (socket.netns, socket.lport);
                listeners.entry(key).or_default().push(place);
            }
        }
        let mut waiting = Self::default();
        for place in 0..found.sockets.len() {
            let socket = &found.sockets[place];
            if !(socket.may_be_queued() || socket.is_half_open()) {
                continue;
            }
            let Some(on_port) = listeners.get(&(socket.netns, socket.lport)) else {
                continue;
            };
            let at = |place: u32| found.sockets.get(usize::try_from(place).ok()?);
            let candidates: Vec<u32> = on_port
                .iter()
                .copied()
                .filter(|place| at(*place).is_some_and(|listener| takes(listener, socket)))
                .collect();
            let waiting_us = found.waiting_us(socket);
            // Of several, the kernel chose by what we cannot see: when they came to listen, or a hash.
            match candidates.as_slice() {
                [] => {}
                [only] => {
                    waiting
                        .one
                        .entry(*only)
                        .or_default()
                        .add(socket, waiting_us);
                    found.sockets[place].listener = *only;
                }
                several @ [first, ..] => {
                    let address = |place: &u32| at(*place).map(|one| (one.local, one.interface));
                    if several.iter().all(|other| address(other) == address(first)) {
                        waiting
                            .shared
                            .entry(*first)
                            .or_default()
                            .add(socket, waiting_us);
                    }
                    waiting.unclear.extend(several);
                }
            }
        }
        waiting
    }

    /// Half-open requests of the listener at a place; none if they may be another's.
    pub(super) fn half_open(&self, place: u32) -> Option<u32> {
        let known = !self.unclear.contains(&place);
        known.then(|| self.one.get(&place).map_or(0, |queue| queue.half_open))
    }

    /// What waits at the listeners of one address.
    pub(super) fn of(&self, places: impl Iterator<Item = u32>) -> Queue {
        places.fold(Queue::default(), |queue, place| {
            let of = |map: &HashMap<u32, Queue>| map.get(&place).copied().unwrap_or_default();
            queue.join(of(&self.one)).join(of(&self.shared))
        })
    }
}

/// Whether a connection to `socket`'s own address can have come to this listener.
fn takes(listener: &Socket, socket: &Socket) -> bool {
    listener.suits(socket.local).is_some()
        && (listener.interface == 0 || listener.interface == socket.interface)
}
