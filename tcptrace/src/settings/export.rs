//! Where records and metrics go beside the output.

use std::{net::SocketAddr, time::Duration};

use crate::{
    cli::ExportArgs, error::Error, export::otlp::config::Config, quantity::parse_duration,
};

/// The exports that are wanted.
#[derive(Clone, Debug)]
pub struct Exports {
    /// To an OTLP receiver
    pub otlp: Option<Config>,
    /// Served over HTTP
    pub prometheus: Option<SocketAddr>,
    /// To the journal
    pub journald: bool,
    /// Most values of a label
    pub max_label_values: usize,
    /// How long exports may deliver at the end
    pub drain: Duration,
    /// How many events wait for an export at most
    pub queue: usize,
}

impl Exports {
    /// Checks what was typed, and what the environment says of OTLP if that is wanted.
    pub fn parse(args: &ExportArgs) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok();
        let otlp = args
            .otlp
            .as_deref()
            .map(|url| Config::new(url, variable))
            .transpose()
            .map_err(|why| Error::usage(format!("--otlp: {why}")))?;
        if otlp
            .as_ref()
            .is_some_and(|config| config.logs.is_none() && config.metrics.is_none())
        {
            return Err(Error::usage(
                "--otlp: OTEL_LOGS_EXPORTER and OTEL_METRICS_EXPORTER are both none: nothing is left to send",
            ));
        }
        Ok(Self {
            otlp,
            prometheus: args.prometheus,
            journald: args.journald,
            max_label_values: args.max_label_values,
            drain: parse_duration("--drain", &args.drain)?,
            queue: usize::try_from(args.export_queue).unwrap_or(usize::MAX),
        })
    }

    /// Whether there is any.
    pub const fn any(&self) -> bool {
        self.otlp.is_some() || self.prometheus.is_some() || self.journald
    }

    /// Whether one of them speaks over the network.
    pub const fn network(&self) -> bool {
        self.otlp.is_some() || self.prometheus.is_some()
    }

    /// The ports that are connected to.
    pub fn ports(&self) -> Vec<u16> {
        let endpoints = self
            .otlp
            .iter()
            .flat_map(|config| [&config.logs, &config.metrics]);
        endpoints
            .flatten()
            .map(|endpoint| {
                let is_tls = endpoint.uri.scheme_str() == Some("https");
                let default = if is_tls { 443 } else { 80 };
                endpoint.uri.port_u16().unwrap_or(default)
            })
            .collect()
    }

    /// Whether one of them takes records, and not their numbers alone.
    pub fn takes_records(&self) -> bool {
        self.journald
            || self
                .otlp
                .as_ref()
                .is_some_and(|config| config.logs.is_some())
    }

    /// Whether one of them takes the metrics.
    pub fn takes_metrics(&self) -> bool {
        self.prometheus.is_some()
            || self
                .otlp
                .as_ref()
                .is_some_and(|config| config.metrics.is_some())
    }
}
