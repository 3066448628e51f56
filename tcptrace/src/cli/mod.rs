//! The command line: names, help, and nothing else. Parts that several commands share have a file
//! each; filters are in [`crate::filter`]. Rules between options are in [`crate::settings`].

mod export;
mod kernel;
mod list;
mod listen;
mod run;
mod trace;
mod view;

use clap::{Args, Parser, Subcommand};

use crate::trace::child::SUBCOMMAND;

pub use self::{
    export::ExportArgs,
    kernel::KernelArgs,
    list::ListArgs,
    listen::ListenArgs,
    run::{DiagnosticArgs, RunArgs},
    trace::{Compact, EventName, RecordArgs, TraceArgs},
    view::{ColorWhen, Format, TimeArgs, ViewArgs},
};

/// Each with what it does, as `--help` and the manual page show them.
pub const EXAMPLES: &str = "\
Examples:
  sudo tcptrace                        every TCP connection of this host, as it happens
  sudo tcptrace -p 4242                only those of process 4242, from their first SYN
  sudo tcptrace -- curl example.com    only those of this command and its children
  sudo tcptrace -s -D 443              one line per connection to port 443, at its end
  sudo tcptrace --json | jq .          one JSON object per line
  sudo tcptrace --format csv -o FILE   rows for a spreadsheet or a database
  sudo tcptrace list                   what is open now, and whose it is
  sudo tcptrace listen -i              who listens, and which queue overflows
  tcptrace check                       what can be known on this kernel, and how";

/// Every TCP state transition on this host, live, with the process that owns the connection.
#[derive(Debug, Parser)]
#[command(
    name = "tcptrace",
    version,
    about,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    max_term_width = 100
)]
pub struct Cli {
    /// What to do; tracing if left out.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to trace.
    #[command(flatten)]
    pub trace: TraceArgs,
}

impl Cli {
    /// How much to say.
    pub fn verbosity(&self) -> u8 {
        match &self.command {
            Some(Command::List(args)) => args.diagnostic.verbose,
            Some(Command::Listen(args)) => args.diagnostic.verbose,
            _ => self.trace.diagnostic.verbose,
        }
    }
}

/// What can be done besides tracing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say what this kernel allows, which hooks serve which fact, and what is missing
    Check(CheckArgs),
    /// Print the JSON Schema of the records
    Schema,
    /// Show the connections that exist now, of every network namespace, with all their owners
    List(Box<ListArgs>),
    /// Show who listens, the queue of each listener, and what is wrong there
    Listen(Box<ListenArgs>),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, tcptrace(8)
    Man,
    /// Become a command once a byte comes through a pipe; for `-- CMD` alone
    #[command(name = SUBCOMMAND, hide = true)]
    Exec {
        /// The pipe's file descriptor
        gate: i32,
        /// The command
        #[arg(last = true)]
        command: Vec<std::ffi::OsString>,
    },
}

/// Options of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// What of the kernel may be used.
    #[command(flatten)]
    pub kernel: KernelArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_help_fits_a_terminal() {
        let help = Cli::command().term_width(100).render_help().to_string();
        assert!(
            help.lines().all(|line| line.chars().count() <= 100),
            "{help}"
        );
    }
}
