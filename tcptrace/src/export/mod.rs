//! Events to elsewhere: over the network, or to the journal. Nothing here runs unless an option asks for
//! it, and nothing else in the agent talks to anybody.

pub mod exposition;
pub mod http;
pub mod metrics;
pub mod otlp;
pub mod prometheus;

use std::time::Instant;

/// Until when exports may deliver; none while the trace goes on.
pub type Deadline = Option<Instant>;
