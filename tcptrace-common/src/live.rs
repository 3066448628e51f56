//! What another tcptrace may read of a tracer that runs: fields at fixed places in the values of its maps.
//!
//! The tracer says in the map [`ABI_MAP`] which version of this it has and which maps are its own. The kernel side
//! asserts each place, so that none can move unnoticed; whoever moves one raises [`LIVE_VERSION`].

use crate::record::{Counters, PATH_LEN};

/// Changes whenever a place or its meaning does.
pub const LIVE_VERSION: u32 = 2;

/// The map that says what is where: an array of words.
pub const ABI_MAP: &str = "TCPTRACE_ABI";
/// Its words
pub const ABI_WORDS: u32 = 4;
/// [`LIVE_VERSION`]; 0: the tracer is about to start
pub const ABI_VERSION_WORD: u32 = 0;
/// Id of the map of sockets, `SOCKS`
pub const ABI_SOCKS_WORD: u32 = 1;
/// Id of the map of pairs in `TIME_WAIT`, `TIME_WAITS`
pub const ABI_PAIRS_WORD: u32 = 2;

/// Places in a value of `SOCKS`.
pub mod sock {
    use super::{Counters, PATH_LEN};

    /// Connection id (`u64`); 0: none yet
    pub const CONN: usize = 40;
    /// Steps in `path` (`u8`)
    pub const PATH_LEN_AT: usize = 57;
    /// `FLAG_*` (`u8`)
    pub const FLAGS: usize = 59;
    /// `ROLE_*` (`u8`)
    pub const ROLE: usize = 60;
    /// `SOURCE_*` of each owner (`[u8; 2]`)
    pub const SOURCES: usize = 61;
    /// Which owner is in force (`u8`)
    pub const SLOT: usize = 63;
    /// What the record is of (`u8`); [`DEAD`]: a socket whose connection has gone over to a time-wait socket
    pub const LIFE: usize = 67;
    /// In [`LIFE`]: it has no more to report
    pub const DEAD: u8 = 2;
    /// States entered, oldest first (`[Step; PATH_LEN]`)
    pub const PATH: usize = 72;
    /// `[Owner; 2]`
    pub const OWNERS: usize = PATH + PATH_LEN * 8 + 48;
    /// Bytes of a value
    pub const BYTES: usize = OWNERS + 64 + size_of::<Counters>() + 8;
}

/// Places in a value of `TIME_WAITS`.
pub mod pair {
    /// Connection id (`u64`)
    pub const CONN: usize = 0;
    /// When it entered `TIME_WAIT`, `CLOCK_MONOTONIC` (`u64`)
    pub const SINCE_NS: usize = 8;
    /// `Owner`
    pub const OWNER: usize = 32;
    /// `ROLE_*` (`u8`)
    pub const ROLE: usize = 109;
    /// `SOURCE_*` (`u8`)
    pub const SOURCE: usize = 110;
    /// Bytes of a value
    pub const BYTES: usize = 120;
}
