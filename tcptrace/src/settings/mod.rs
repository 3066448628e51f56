//! From what was typed to what is meant: every rule between options, and every unit. What concerns one
//! part alone is in that part.

mod export;
pub mod list;
pub mod listen;
mod records;
mod run;
mod view;

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use tcptrace_common::config::{EMIT_CLOSE, EMIT_LISTENER, EMIT_TRANSITION};

pub use self::{
    export::Exports,
    records::Records,
    run::Run,
    view::{View, time_format},
};
use crate::{
    cli::{KernelArgs, TraceArgs},
    error::Error,
    event::Role,
    filter::{Filter as _, Filters, KernelFilters, Outcome},
    sink::time::TimeFormat,
};

/// What to trace and how to show it.
#[derive(Debug)]
pub struct Settings {
    /// Which connections
    pub filters: Filters,
    /// What must have become of them
    pub outcome: Outcome,
    /// Which records of theirs
    pub records: Records,
    /// How records look
    pub view: View,
    /// Time column of the table
    pub time: TimeFormat,
    /// File to append to; none: standard output, or standard error with a command
    pub output: Option<PathBuf>,
    /// Whether records are printed at all
    pub prints: bool,
    /// Where records and metrics go beside that
    pub exports: Exports,
    /// The command to run and trace; empty: none
    pub command: Vec<OsString>,
    /// How long, and with how much memory
    pub run: Run,
    /// What of the kernel may be used
    pub kernel: KernelArgs,
    /// How much to say about what happens inside
    pub verbose: u8,
    /// No header, no summary
    pub quiet: bool,
}

impl Settings {
    /// Checks what was typed.
    pub fn new(args: TraceArgs) -> Result<Self, Error> {
        let filters = Filters::parse(args.filter)?;
        let outcome = Outcome::parse(args.outcome)?;
        let exports = Exports::parse(&args.export)?;
        let view = View::new(&args.view)?;
        let is_output_asked_for =
            args.records.output.is_some() || view.format != crate::cli::Format::Table;
        let prints = is_output_asked_for || !(args.diagnostic.quiet && exports.any());
        // Numbers take no more than how each connection ended.
        let is_counting = !prints && !exports.takes_records();
        let mut records = Records::parse(&args.records, is_counting)?;
        if outcome.failed {
            if !records.shows(EMIT_TRANSITION | EMIT_CLOSE) {
                return Err(Error::usage(
                    "--failed knows a connection by its end; add transition or close to --events",
                ));
            }
            // The close record shows whether a connection has failed.
            records.emit |= EMIT_CLOSE;
        }
        let only_listeners = records.print == EMIT_LISTENER && !records.sockets;
        if only_listeners && !filters.roles.contains(Role::Listener) {
            return Err(Error::usage(
                "--events listener is about listeners, and --role leaves them out",
            ));
        }
        Ok(Self {
            filters,
            outcome,
            records,
            view,
            time: time_format(&args.time, view.format)?,
            // As for most programs, `-` is standard output.
            output: args.records.output.filter(|path| path.as_os_str() != "-"),
            prints,
            exports,
            command: args.command,
            run: Run::parse(args.run, is_counting)?,
            kernel: args.kernel,
            verbose: args.diagnostic.verbose,
            quiet: args.diagnostic.quiet,
        })
    }

    /// The filters in force as they were typed, by name.
    pub fn typed_filters(&self) -> BTreeMap<&'static str, String> {
        let mut typed = BTreeMap::new();
        self.filters.typed(&mut typed);
        self.outcome.typed(&mut typed);
        typed
    }

    /// Configures the kernel side: filters and kinds of records.
    pub fn configure(&self, kernel: &mut KernelFilters) {
        self.filters.configure(kernel);
        self.outcome.configure(kernel);
        kernel.config.emit = self.records.emit;
        kernel.config.args = u8::from(self.records.args);
        kernel.config.lists = u8::from(self.records.sockets);
    }
}
