//! The command line: names, help, and nothing else. Rules between options are in `settings`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Each with what it does, as `--help` and the manual page show them.
pub const EXAMPLES: &str = "\
Examples:
  sudo tcptrace                        every TCP connection of this host, as it happens
  sudo tcptrace -p 4242                only those of process 4242, from their first SYN
  sudo tcptrace -s -D 443              one line per connection to port 443, at its end
  sudo tcptrace --json | jq .          one JSON object per line
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

/// What can be done besides tracing.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Say what this kernel allows, which hooks serve which fact, and what is missing
    Check(CheckArgs),
    /// Print the completions of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, tcptrace(8)
    Man,
}

/// Options of `check`.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(short, long)]
    pub json: bool,
    /// What tests forbid.
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Makes this kernel poorer than it is, for tests.
#[derive(Args, Clone, Debug)]
pub struct LimitArgs {
    /// Use only these kinds of accept hooks: fentry, kprobe, kretprobe, tracepoint
    #[arg(long, value_name = "LIST", value_delimiter = ',', hide = true)]
    pub hooks: Vec<HookKind>,
    /// Read the kernel's types from FILE
    #[arg(
        long,
        value_name = "FILE",
        hide = true,
        default_value = "/sys/kernel/btf/vmlinux"
    )]
    pub btf: PathBuf,
}

/// Kinds of hooks, to forbid all others in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookKind {
    /// BPF trampolines
    Fentry,
    /// Breakpoints
    Kprobe,
    /// Breakpoints on the return
    Kretprobe,
    /// Tracepoints of system calls
    Tracepoint,
}

/// Options of the trace, as typed.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
#[derive(Args, Debug)]
pub struct TraceArgs {
    /// Only connections owned by these processes, from their first transition
    #[arg(short, long, value_name = "PID", value_delimiter = ',', help_heading = "Filter",
          value_parser = parse_pid, allow_hyphen_values = true)]
    pub pid: Vec<u32>,
    /// Only IPv4
    #[arg(short = '4', help_heading = "Filter")]
    pub v4: bool,
    /// Only IPv6
    #[arg(short = '6', help_heading = "Filter")]
    pub v6: bool,
    /// Only these local ports: 80,443,8000-8100; '!22' excludes
    #[arg(short = 'L', long, value_name = "LIST", help_heading = "Filter")]
    pub lport: Option<String>,
    /// Only these remote ports
    #[arg(short = 'D', long, value_name = "LIST", help_heading = "Filter")]
    pub rport: Option<String>,
    /// Only these ports, at either end
    #[arg(long, value_name = "LIST", help_heading = "Filter")]
    pub port: Option<String>,
    /// Only connections in these roles: client, server, listener, unknown
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Filter"
    )]
    pub role: Vec<RoleName>,
    /// By state, as typed
    #[arg(
        long,
        help = "Only transitions that enter or leave these states: SYN_SENT,CLOSE_WAIT",
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Filter"
    )]
    pub state: Vec<String>,
    /// Only connections that failed: refused, timed out, unreachable, reset; not those that the program
    /// itself gave up before
    #[arg(long, help_heading = "Filter")]
    pub failed: bool,
    /// By time, as typed
    #[arg(
        long,
        help = "Only connections that took this long to connect, or to be accepted: 100ms; a bare number is seconds",
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Filter"
    )]
    pub slower_than: Option<String>,
    /// Do not list the connections that are open at start
    #[arg(long, help_heading = "Filter")]
    pub no_existing: bool,

    /// One line per connection, at its end, in place of one per transition
    #[arg(short, long, help_heading = "Output")]
    pub summary: bool,
    /// Which records: socket, transition, accept, close (these by default), retransmit, reset,
    /// listener, or all
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        help_heading = "Output"
    )]
    pub events: Vec<EventName>,
    /// How to print records
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        help_heading = "Output"
    )]
    pub format: Format,
    /// Same as --format json: one JSON object per line
    #[arg(short, long, help_heading = "Output")]
    pub json: bool,
    /// Append to FILE in place of standard output; SIGHUP reopens it
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Time column: clock, date, unix, elapsed, none, or a strftime pattern
    #[arg(
        short = 'T',
        long,
        value_name = "FORMAT",
        default_value = "clock",
        help_heading = "Output"
    )]
    pub time: String,
    /// Times in UTC in place of local time
    #[arg(long, help_heading = "Output")]
    pub utc: bool,
    /// Say in words what each transition means on the wire
    #[arg(long, help_heading = "Output")]
    pub explain: bool,
    /// More columns: uid, network namespace, how the owner is known
    #[arg(short, long, help_heading = "Output")]
    pub wide: bool,
    /// When to colour: auto, always, never
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Output"
    )]
    pub color: ColorWhen,

    /// Stop after this time: 10, 1.5s, 300ms, 5m, 1h
    #[arg(
        short,
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Run"
    )]
    pub duration: Option<String>,
    /// Stop after this many records
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..),
          help_heading = "Run")]
    pub count: Option<u64>,
    /// Size of the ring between kernel and agent: 8M, 512K; a power of two of pages is used
    #[arg(long, value_name = "SIZE", default_value = "8M", help_heading = "Run")]
    pub buffer: String,
    /// Most sockets to keep a record of [default: by the memory there is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..),
          help_heading = "Run")]
    pub max_sockets: Option<u32>,
    /// Write the bytes of the ring to FILE, to be replayed in tests
    #[arg(long, value_name = "FILE", hide = true)]
    pub record_ring: Option<PathBuf>,
    /// What tests forbid.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Exit with 4 if anything was lost
    #[arg(long, help_heading = "Run")]
    pub fail_on_loss: bool,
    /// Say more about what happens inside; twice for the kernel side's debug messages
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Run")]
    pub verbose: u8,
    /// Neither the table's header nor the summary at the end
    #[arg(short, long, help_heading = "Run")]
    pub quiet: bool,
}

fn parse_pid(text: &str) -> Result<u32, String> {
    // PID_MAX_LIMIT of include/linux/threads.h
    text.parse()
        .ok()
        .filter(|pid| (1..=1 << 22).contains(pid))
        .ok_or_else(|| "not a process id; use numbers as in 4242 or 4242,4243".to_owned())
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

/// Roles that `--role` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
    /// Opened by `connect()`
    Client,
    /// Born of a listener
    Server,
    /// Listening
    Listener,
    /// First seen half-way
    Unknown,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    Table,
    /// One JSON object per line
    Json,
}

/// When to colour the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb`
    Auto,
    /// Always
    Always,
    /// Never
    Never,
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
