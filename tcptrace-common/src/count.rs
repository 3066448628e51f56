//! Indices into the per-CPU `COUNTS` array.

/// Transitions that found the ring full.
pub const RING_FULL_TRANSITION: u32 = 0;
/// Accept records that found the ring full.
pub const RING_FULL_ACCEPT: u32 = 1;
/// Closing totals that found the ring full (their last transition is counted apart).
pub const RING_FULL_CLOSE: u32 = 2;
/// Transitions of a socket that found no room in the `SOCKS` map.
pub const MAP_FULL: u32 = 3;
/// Transitions the second program handled because the kernel skipped the first.
pub const RESCUED: u32 = 4;
/// Records put off until their four-tuple is whole.
pub const HELD: u32 = 5;
/// Records of [`HELD`] that have since been sent.
pub const RELEASED: u32 = 6;
/// Records put off that found no room in the `PENDING` map: they come with the next transition.
pub const UNLISTED: u32 = 7;
/// Records of [`UNLISTED`] that have since been sent or rejected.
pub const UNLISTED_SENT: u32 = 8;
/// Other records (retransmissions, resets, listeners) that found the ring full.
pub const RING_FULL_NOTED: u32 = 9;
/// Time-wait sockets put into `WATCH`.
pub const WATCHED: u32 = 10;
/// Time-wait sockets taken out of `WATCH` for good.
pub const UNWATCHED: u32 = 11;
/// Ends of `TIME_WAIT` that found the ring full.
pub const RING_FULL_PAIR: u32 = 12;
/// Ends of `TIME_WAIT` that will not be told: their pair found no room in the `PAIRS` map.
pub const PAIRS_FULL: u32 = 13;
/// Transitions never told, because the end of their socket was hidden.
pub const UNTOLD: u32 = 14;
/// Transitions that no program saw, which a later one shows, or that the socket is no more. Where the
/// kernel counts what it skips a program for, it may have counted them as well.
pub const UNSEEN: u32 = 15;
/// Ends of `TIME_WAIT` whose record could not be removed, as if somebody else had told of them, and stopped
/// timers that found no room in `WATCH`.
pub const UNCLAIMED: u32 = 16;
/// Length of the array.
pub const COUNTS: u32 = 17;
