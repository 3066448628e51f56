//! What the tests against the kernel share.
//!
//! * [`oracle`]: what really happened, as ftrace recorded it
//! * [`actor`], [`peer`]: processes that make connections as they are told
//! * [`tracer`]: the program under test; [`record`]: the lines that it writes
//! * [`check`]: those lines against what really happened
//! * [`netns`], [`confinement`]: where all of this takes place
//!
//! An executable that uses actors passes `peer` and what follows it on its command line to [`peer::main`]:
//! an actor is the same program once more.
#![expect(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::new_without_default,
    clippy::return_self_not_must_use,
    reason = "used by tests alone: a failed expectation ends them, on the spot"
)]

pub mod actor;
pub mod check;
pub mod confinement;
pub mod figure;
pub mod netns;
pub mod oracle;
pub mod peer;
pub mod record;
pub mod sock_diag;
pub mod tracer;
pub mod wait;
