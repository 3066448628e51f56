//! The options of a trace.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, ValueEnum};

use super::{DiagnosticArgs, ExportArgs, KernelArgs, RunArgs, TimeArgs, ViewArgs};
use crate::filter::{FilterArgs, OutcomeArgs};

/// Options of the trace, as typed.
#[derive(Args, Clone, Debug)]
#[expect(missing_docs, reason = "each is documented where it is defined")]
pub struct TraceArgs {
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub outcome: OutcomeArgs,
    #[command(flatten)]
    pub records: RecordArgs,
    #[command(flatten)]
    pub view: ViewArgs,
    #[command(flatten)]
    pub time: TimeArgs,
    #[command(flatten)]
    pub export: ExportArgs,
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub diagnostic: DiagnosticArgs,
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Run this command, and trace only it and the processes that come of it; exit with its status
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Which records there are, and where they go.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line"
)]
pub struct RecordArgs {
    /// Do not list the connections that are open at start
    #[arg(long, help_heading = "Filter")]
    pub no_existing: bool,
    /// One line per connection, at its end, in place of one per transition
    #[arg(short, long)]
    pub summary: bool,
    /// One line per connection, at its end, with the states it passed: auto, always, never; auto is
    /// always on a terminal of less than 100 columns
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        default_missing_value = "always",
        num_args = 0..=1,
        require_equals = true
    )]
    pub compact: Compact,
    /// With -s and --compact, list all connections that are still open at the end, not only 20
    #[arg(long)]
    pub all: bool,
    /// Which records: socket, transition, accept, owner, close, listener (these by default), retransmit,
    /// reset, or all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub events: Vec<EventName>,
    /// Say in words what each transition means on the wire
    #[arg(long)]
    pub explain: bool,
    /// Command lines of owners in JSON, CSV and ECS; they may hold secrets
    #[arg(long)]
    pub args: bool,
    /// Append to FILE in place of standard output; SIGHUP reopens it
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// When a connection is one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Compact {
    /// On a narrow terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// Kinds of records that `--events` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventName {
    /// Connections open at start
    Socket,
    /// State changes
    Transition,
    /// `accept()` returned a connection
    Accept,
    /// Another process became the owner
    Owner,
    /// A connection ended
    Close,
    /// A segment was sent again
    Retransmit,
    /// RST sent or received
    Reset,
    /// What goes wrong at listeners: queues that overflow, requests that nobody completes
    Listener,
    /// Everything
    All,
}
