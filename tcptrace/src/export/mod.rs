//! Events to elsewhere: over the network, or to the journal. Nothing here runs unless an option asks for
//! it, and nothing else in the agent talks to anybody.

pub mod exposition;
pub mod http;
pub mod journald;
pub mod metrics;
pub mod otlp;
pub mod prometheus;
mod start;

use std::time::Instant;

pub use self::start::{Prepared, prepare};

/// Until when exports may deliver; none while the trace goes on.
pub type Deadline = Option<Instant>;
