//! What `list` is to show.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum as _;

use super::view::View;
use crate::{
    cli::{Format, ListArgs},
    error::Error,
    filter::Filters,
    quantity::parse_duration,
    sink::list::column::{ALL, Column},
};

/// What to list and how.
#[derive(Debug)]
pub struct ListSettings {
    /// Which connections
    pub filters: Filters,
    /// Only those on which no data has moved for so long
    pub idle: Option<Duration>,
    /// Only those that are older
    pub older_than: Option<Duration>,
    /// How rows look
    pub view: View,
    /// Columns asked for; none: those that fit
    pub columns: Option<Vec<Column>>,
    /// What rows are sorted by
    pub sort: Option<Sort>,
    /// With titles
    pub header: bool,
    /// How often to look
    pub watch: Option<Duration>,
    /// When to stop looking
    pub duration: Option<Duration>,
    /// Where the kernel describes its types
    pub btf: PathBuf,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug)]
pub struct Sort {
    /// The column
    pub column: Column,
    /// The greatest first
    pub reverse: bool,
}

impl ListSettings {
    /// Checks what was typed.
    pub fn new(args: ListArgs) -> Result<Self, Error> {
        let duration = |option: &str, text: Option<String>| {
            text.map(|text| parse_duration(option, &text)).transpose()
        };
        let view = View::new(&args.view)?;
        if !matches!(view.format, Format::Table | Format::Json) {
            return Err(Error::usage(
                "--format: what is there now comes as a table or as json; the other formats are a trace's",
            ));
        }
        let columns = if !args.columns.is_empty() {
            if view.format == Format::Json {
                return Err(Error::usage(
                    "--columns are the table's; a JSON object has all fields, choose among them with jq",
                ));
            }
            Some(args.columns)
        } else if view.wide {
            Some(ALL.to_vec())
        } else {
            None
        };
        Ok(Self {
            filters: Filters::parse(args.filter)?,
            idle: duration("--idle", args.idle)?,
            older_than: duration("--older-than", args.older_than)?,
            view,
            columns,
            sort: args.sort.as_deref().map(Sort::parse).transpose()?,
            header: !args.no_header && !args.diagnostic.quiet,
            watch: duration("--watch", args.watch)?,
            duration: duration("-d", args.duration)?,
            btf: args.kernel.btf,
        })
    }

    /// Whether anything is asked for that only a tracer knows.
    pub fn asks_for_ages(&self) -> bool {
        let is_age = |column: &Column| matches!(column, Column::Age | Column::InState);
        let sorts = self.sort.is_some_and(|sort| is_age(&sort.column));
        let shows = !self.view.wide && self.columns.iter().flatten().any(is_age);
        self.older_than.is_some() || sorts || shows
    }

    /// Whether anything is asked for that the kernel counts for each connection; `columns` of the terminal.
    pub fn needs_counters(&self, columns: Option<usize>) -> bool {
        /// Less has no room for them.
        const ROOMY: usize = 100;
        self.view.format == Format::Json
            || self.idle.is_some()
            || self.sort.is_some_and(|sort| sort.column.needs_counters())
            || match &self.columns {
                Some(asked) => asked.iter().any(|column| column.needs_counters()),
                None => columns.is_some_and(|columns| columns > ROOMY),
            }
    }
}

impl Sort {
    fn parse(text: &str) -> Result<Self, Error> {
        let (name, reverse) = match text.strip_prefix('-') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let column = Column::from_str(name, true).map_err(|_unknown| {
            let names: Vec<_> = ALL
                .iter()
                .filter_map(Column::to_possible_value)
                .map(|value| value.get_name().to_owned())
                .collect();
            Error::usage(format!(
                "--sort {text}: no such column; use one of {}",
                names.join(", ")
            ))
        })?;
        Ok(Self { column, reverse })
    }
}
