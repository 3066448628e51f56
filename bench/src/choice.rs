//! What of it all to measure.

use anyhow::{Result, bail};

use super::tool::{self, Tool};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Choice {
    /// How often each trial is made
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) rounds: u8,
    /// Fewer connections: for a first look
    #[arg(long)]
    pub(super) quick: bool,
    /// Only these tools, beside none: tcptrace, tcplife, ...
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// Only these tables: turns, speed, programs, losses, idle, promptness
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(super) tables: Vec<Table>,
}

/// A part of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Table {
    /// In turns beside one load
    Turns,
    /// As many connections as can be
    Speed,
    /// What the kernel counts of the programs
    Programs,
    /// Lines beside what there was to be reported
    Losses,
    /// Beside connections that stay open
    Idle,
    /// How soon something is shown
    Promptness,
}

impl Table {
    pub(super) const ALL: [Self; 6] = [
        Self::Turns,
        Self::Speed,
        Self::Programs,
        Self::Losses,
        Self::Idle,
        Self::Promptness,
    ];

    pub(super) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

impl Choice {
    pub(super) fn check(&self) -> Result<()> {
        for name in &self.only {
            if !tool::ALL
                .iter()
                .any(|tool| tool.name.contains(name.as_str()))
            {
                let names = tool::ALL.map(|tool| tool.name);
                bail!("no tool is called {name}; there are: {}", names.join(", "));
            }
        }
        Ok(())
    }

    /// The tools that were asked for, and none at all, which the others are compared with.
    pub(super) fn tools(&self) -> Vec<Tool> {
        let wanted = |tool: &Tool| {
            let named = |name: &String| tool.name.contains(name.as_str());
            self.only.is_empty() || tool.name == "none" || self.only.iter().any(named)
        };
        tool::ALL.into_iter().filter(wanted).collect()
    }

    pub(super) fn wants(&self, table: Table) -> bool {
        self.tables.is_empty() || self.tables.contains(&table)
    }
}
