//! A trace, from its first signal to its last.
//!
//! ```text
//! source ── records ─> dispatch: decode, select, account ── events ─> consumers
//! ```
//!
//! [`Reader`] is the loop that drives it, [`Supervisor`] passes on what comes from outside. An output is
//! a [`Consumer`]: [`LineOutput`] renders lines and may block the loop, which is how the pace of a reader
//! becomes a count in the kernel; any other stands behind a [`Queued`].

mod accounting;
mod asked;
pub mod child;
mod consumer;
mod dispatch;
mod drain;
mod lines;
mod queued;
mod reader;
mod running;
mod select;
mod source;
mod supervise;

pub use self::{
    accounting::Totals,
    asked::Asked,
    consumer::{Consumer, Flow, Outputs},
    lines::LineOutput,
    queued::Queued,
    reader::{Control, Reader},
    supervise::{Signals, Supervised, Supervisor},
};
