//! A trace, from its first signal to its last.

mod supervise;

pub use supervise::{Signals, Supervisor};
