//! The command line: names, help, and nothing else. Parts that several commands share have a file
//! each; filters are in [`crate::filter`]. Rules between options are in [`crate::settings`].

mod export;
mod kernel;
mod list;
mod listen;
mod run;
mod trace;
mod view;

use std::net::IpAddr;

use clap::{
    Args, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

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

/// A word that is no option and no command, if that is what is wrong with the command line.
pub fn stray_word(why: &clap::Error) -> Option<&str> {
    if why.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    match why.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if !word.starts_with('-') => Some(word),
        _ => None,
    }
}

/// The option that such a word may have been meant for.
pub fn filter_for(word: &str) -> String {
    let address = word.split_once('/').map_or(word, |(address, _)| address);
    if address.parse::<IpAddr>().is_ok() {
        return format!("as --addr {word}");
    }
    if let Ok(number) = word.parse::<u32>() {
        return format!("as --port {number} or -p {number}");
    }
    "as --addr 10.0.3.7, --port 443, -p PID or -c NAME, and a command behind --".to_owned()
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
    fn a_stray_word_is_answered() {
        for (words, hint) in [
            (&["-w", "127.0.0.1"][..], "--addr 127.0.0.1"),
            (&["10.0.0.0/8"], "--addr 10.0.0.0/8"),
            (&["443"], "--port 443"),
            (&["list", "::1"], "--addr ::1"),
            (&["curl", "example.com"], "--"),
        ] {
            let words = ["tcptrace"].iter().chain(words);
            let why = Cli::try_parse_from(words).unwrap_err();
            let word = stray_word(&why).expect("a word");
            assert!(filter_for(word).contains(hint), "{word}");
        }
        let why = Cli::try_parse_from(["tcptrace", "--nonsense"]).unwrap_err();
        assert_eq!(stray_word(&why), None);
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
