//! Where records and metrics go beside the output.

use std::net::SocketAddr;

use clap::Args;

use crate::export::prometheus::parse_address;

/// Exports: each beside the output, or with --quiet in its place.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Export")]
pub struct ExportArgs {
    /// To an OTLP receiver
    #[arg(long, value_name = "URL",
          help = "Send records and metrics to this OTLP receiver over HTTP: http://HOST:4318; without a URL the \
                  OTEL_EXPORTER_OTLP_ variables say where", num_args = 0..=1, default_missing_value = "")]
    pub otlp: Option<String>,
    /// Serve metrics at this address, as 127.0.0.1:9435 or :9435, under /metrics
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    pub prometheus: Option<SocketAddr>,
    /// Write records to the journal of this host
    #[arg(long)]
    pub journald: bool,
    /// Most names of processes in metrics; the rest is `other`
    #[arg(long, value_name = "N", default_value = "200", hide_short_help = true)]
    pub max_label_values: usize,
    /// How long exports may deliver at the end: 5s, 500ms
    #[arg(
        long,
        value_name = "DUR",
        default_value = "5s",
        allow_hyphen_values = true
    )]
    pub drain: String,
    /// Most events that wait for an export; what comes then is counted as lost
    #[arg(long, value_name = "N", default_value = "131072", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub export_queue: u32,
}
