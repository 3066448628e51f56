//! How records look.

use clap::{Args, ValueEnum};

/// How records are printed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct ViewArgs {
    /// How to print records
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    pub format: Format,
    /// Same as --format json: one JSON object per line
    #[arg(short, long, conflicts_with = "format")]
    pub json: bool,
    /// More columns: uid, network namespace, how the owner is known
    #[arg(short, long)]
    pub wide: bool,
    /// When to color: auto, always, never
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorWhen,
}

/// How times look in the table.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Output")]
pub struct TimeArgs {
    /// Time column: clock, date, unix, elapsed, none, or a strftime pattern
    #[arg(short = 'T', long, value_name = "FORMAT", default_value = "clock")]
    pub time: String,
    /// Times in UTC in place of local time
    #[arg(long)]
    pub utc: bool,
}

/// How records are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns for people
    Table,
    /// One JSON object per line
    Json,
    /// A header and a row per record: RFC 4180
    Csv,
    /// One JSON object per line, under the names of the Elastic Common Schema
    Ecs,
}

/// When to color the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` or `TERM=dumb`
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}
