//! How long a trace runs, with how much memory, and what is said about it.

use std::path::PathBuf;

use clap::Args;

/// How long to run, and with how much memory.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Stop after this time: 10, 1.5s, 300ms, 5m, 1h
    #[arg(short, long, value_name = "DUR", allow_hyphen_values = true)]
    pub duration: Option<String>,
    /// Stop after this many records
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Size of the ring between kernel and agent: 8M, 512K; a power of two of pages is used
    #[arg(long, value_name = "SIZE", default_value = "8M")]
    pub buffer: String,
    /// Most sockets to keep a record of [default: by the memory there is]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..))]
    pub max_sockets: Option<u32>,
    /// Write the bytes of the ring to FILE, to be replayed in tests
    #[arg(long, value_name = "FILE", hide = true)]
    pub record_ring: Option<PathBuf>,
    /// Keep the privileges that only the start needs
    #[arg(long)]
    pub keep_privileges: bool,
    /// Exit with 4 if anything was lost
    #[arg(long)]
    pub fail_on_loss: bool,
}

/// How much to say on standard error.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Run")]
pub struct DiagnosticArgs {
    /// Say more about what happens inside; twice for the kernel side's debug messages
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Neither the table's header nor the summary at the end; with exports, no table either
    #[arg(short, long)]
    pub quiet: bool,
}
