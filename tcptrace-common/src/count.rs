//! Indices into the counters, which are one value of the `COUNT` map on each CPU: one call reads all.

/// Transitions that found the ring full.
pub const RING_FULL_TRANSITION: usize = 0;
/// Accept records that found the ring full.
pub const RING_FULL_ACCEPT: usize = 1;
/// Closing totals that found the ring full (their last transition is counted apart).
pub const RING_FULL_CLOSE: usize = 2;
/// Transitions of a socket that found no room in the `SOCKS` map.
pub const MAP_FULL: usize = 3;
/// Transitions the second program handled because the kernel skipped the first.
pub const FALLBACK: usize = 4;
/// Records deferred until their four-tuple is whole.
pub const DEFERRED: usize = 5;
/// Records of [`DEFERRED`] that have since been sent.
pub const DEFERRED_SENT: usize = 6;
/// Records deferred that found no room in the `PENDING` map: they come with the next transition.
pub const UNLISTED: usize = 7;
/// Records of [`UNLISTED`] that have since been sent or rejected.
pub const UNLISTED_SENT: usize = 8;
/// Other records (retransmissions, resets, listeners) that found the ring full.
pub const RING_FULL_DETAIL: usize = 9;
/// Time-wait sockets put into `POLL_QUEUE`.
pub const POLL_ADDED: usize = 10;
/// Time-wait sockets taken out of `POLL_QUEUE` for good.
pub const POLL_REMOVED: usize = 11;
/// Ends of `TIME_WAIT` that found the ring full.
pub const RING_FULL_TIME_WAIT: usize = 12;
/// Ends of `TIME_WAIT` that will not be told: their pair found no room in the `TIME_WAITS` map.
pub const PAIRS_FULL: usize = 13;
/// Transitions never told, because the end of their socket was hidden.
pub const UNTOLD: usize = 14;
/// Transitions that no program saw, which a later one shows, or that the socket is no more. Where the
/// kernel counts what it skips a program for, it may have counted them as well.
pub const UNSEEN: usize = 15;
/// Ends of `TIME_WAIT` whose record could not be removed, as if somebody else had told of them, and what may
/// be such ends where the CPU has no place to note it.
pub const UNCLAIMED: usize = 16;
/// Timers of time-wait sockets that were stopped and noted, by CPU, in `TIME_WAIT`.
pub const STOPPED: usize = 17;
/// Connections that somebody has accepted, and nothing proves who.
pub const OVERLOOKED: usize = 18;
/// How many there are.
pub const COUNTS: usize = 19;
