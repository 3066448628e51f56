//! `listen`: the queues of listeners.

use clap::Args;

use super::{DiagnosticArgs, KernelArgs, ViewArgs};
use crate::filter::FilterArgs;

/// Options of `listen`.
#[derive(Args, Clone, Debug)]
pub struct ListenArgs {
    /// Which listeners.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// How rows look.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Leave out the titles
    #[arg(long, help_heading = "Output")]
    pub no_header: bool,
    /// Look again every so many seconds, and watch what is accepted meanwhile
    #[arg(
        short,
        long,
        value_name = "SECS",
        num_args = 0..=1,
        default_missing_value = "1",
        help_heading = "Run"
    )]
    pub interval: Option<String>,
    /// Stop after this time, with --interval
    #[arg(
        short,
        long,
        value_name = "DUR",
        requires = "interval",
        help_heading = "Run"
    )]
    pub duration: Option<String>,
    /// What of the kernel may be used.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// How much to say.
    #[command(flatten)]
    pub diagnostic: DiagnosticArgs,
}
