//! `list`: what is there now.

use clap::Args;

use super::{DiagnosticArgs, KernelArgs, ViewArgs};
use crate::{filter::FilterArgs, sink::list::column::Column};

/// Options of `list`.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Which connections.
    #[command(flatten)]
    pub filter: FilterArgs,
    /// Only connections on which no data has moved for this long: 30s, 5m
    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Filter"
    )]
    pub idle: Option<String>,
    /// Only connections older than this, as a running tracer knows it
    #[arg(
        long,
        value_name = "DUR",
        allow_hyphen_values = true,
        help_heading = "Filter"
    )]
    pub older_than: Option<String>,
    /// How rows look.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Only these columns, in this order
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        ignore_case = true,
        hide_possible_values = true,
        help_heading = "Output"
    )]
    pub columns: Vec<Column>,
    /// Sort by this column; a `-` before it reverses
    #[arg(
        long,
        value_name = "COLUMN",
        allow_hyphen_values = true,
        help_heading = "Output"
    )]
    pub sort: Option<String>,
    /// Leave out the titles
    #[arg(long, help_heading = "Output")]
    pub no_header: bool,
    /// Look again every so many seconds, and show what is new, gone or changed
    #[arg(
        long,
        value_name = "SECS",
        num_args = 0..=1,
        default_missing_value = "2",
        help_heading = "Run"
    )]
    pub watch: Option<String>,
    /// Stop after this time, with --watch
    #[arg(
        short,
        long,
        value_name = "DUR",
        requires = "watch",
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
