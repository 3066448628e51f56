//! The kernel side as the agent sees it: load, attach, snapshot, read, count. Only this module
//! names `aya`.

mod attach;
mod config;
mod counts;
mod exchange;
mod holders;
mod kfunc;
mod live;
mod load;
mod object;
mod open;
mod poll;
mod ring;
mod slow;
mod snapshot;
mod stale;
mod tracer;

pub use attach::{Hooks, Mechanism, TimeWait};
pub use counts::{Counts, Losses};
pub use holders::Holders;
pub use live::{Known, read as read_live};
pub use load::start;
pub use ring::{Ring, Waker, Woken};
pub use snapshot::Snapshot;
pub use tracer::{Logger, Tracer};

/// How much of what the loader says is of use to somebody who traces: what it does with each instruction is
/// not, and that locked memory could not be raised is said with the error that comes of it.
pub const LOG_LEVELS: [(&str, log::LevelFilter); 3] = [
    ("aya", log::LevelFilter::Warn),
    ("aya_obj", log::LevelFilter::Warn),
    ("aya::sys", log::LevelFilter::Error),
];
