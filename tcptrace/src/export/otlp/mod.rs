//! OTLP over HTTP, in protobuf: records as logs, and the metrics.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

pub mod config;
pub mod consumer;
pub mod deliver;
pub mod logs;
pub mod metric;
pub mod pusher;
mod value;
