//! `list --watch`: what is new, gone or changed since the last look.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anstyle::Style;
use tokio::signal::unix::{SignalKind, signal};

use super::{Executables, Lines, arrange, clock_now, is_wanted, learn, plan};
use crate::{
    bpf::Holders,
    cli::Format,
    error::Error,
    inventory::{self, Inventory, dump::Wanted},
    settings::list::ListSettings,
    sink::{
        list::{Row, json::Json, table::Table},
        pen::{DIM, GREEN, YELLOW},
        text,
        time::{TimeColumn, TimeFormat},
    },
};

/// Of `was ESTABLISHED`
const WHAT: usize = 15;
/// Less leaves no room for the time.
const ROOMY: usize = 100;

/// What has become of a socket.
enum Change {
    New,
    /// And how it was before
    Changed(String),
    Gone,
}

impl Change {
    const fn name(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Changed(_) => "changed",
            Self::Gone => "gone",
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::New => "new",
            Self::Changed(before) => before,
            Self::Gone => "gone",
        }
    }

    const fn style(&self) -> Style {
        match self {
            Self::New => GREEN,
            Self::Changed(_) => YELLOW,
            Self::Gone => DIM,
        }
    }
}

/// Looks again and again, until nobody reads any more, a signal comes, or the time is over.
pub(super) fn run(
    settings: &ListSettings,
    every: Duration,
    wanted: Wanted,
    mut holders: Option<&mut Holders>,
    first: Inventory,
    lines: &mut Lines<'_>,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::new)?;
    let mut view = View::new(settings, &first, lines);
    if !view.first(settings, &first, lines)? {
        return Ok(());
    }
    let mut before = first;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(anyhow::Error::new)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(anyhow::Error::new)?;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let over = async {
            match settings.duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(over);
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = &mut over => return Ok(()),
                _ = ticks.tick() => {}
            }
            let mut now = inventory::take(wanted, holders.as_deref_mut())?;
            learn(&mut now);
            if !view.next(settings, &before, &now, lines)? {
                return Ok(());
            }
            before = now;
        }
    })
}

/// How changes look.
enum View {
    Json(Executables),
    Table(Box<Table>, Option<TimeColumn>),
}

impl View {
    fn new(settings: &ListSettings, first: &Inventory, lines: &Lines<'_>) -> Self {
        if settings.view.format == Format::Json {
            return Self::Json(Executables::new(first.by));
        }
        let mut plan = plan(settings, first, lines);
        let time = plan.width.is_none_or(|width| width >= ROOMY);
        let time = TimeFormat::parse("clock", false).ok().filter(|_| time);
        let time = time.map(|format| TimeColumn::new(format, first.mono_ns));
        plan.lead = WHAT + if time.is_some() { 15 + 2 } else { 0 };
        let rows = Row::all(first).filter(|row| is_wanted(row, settings));
        Self::Table(Box::new(Table::new(&plan, rows)), time)
    }

    /// All that is there at first.
    fn first(
        &mut self,
        settings: &ListSettings,
        inventory: &Inventory,
        lines: &mut Lines<'_>,
    ) -> Result<bool, Error> {
        let mut rows: Vec<_> = Row::all(inventory)
            .filter(|row| is_wanted(row, settings))
            .collect();
        arrange(&mut rows, settings.sort);
        match self {
            Self::Json(executables) => {
                let json = Json::new(&mut clock_now(), inventory.mono_ns);
                for row in &rows {
                    json.row(
                        row,
                        None,
                        |process| executables.of(process),
                        &mut lines.text,
                    );
                }
            }
            Self::Table(table, _) => {
                if settings.header {
                    table.header(&mut lines.text);
                }
                for row in &rows {
                    table.row("", Style::new(), row, &mut lines.text);
                }
            }
        }
        lines.flush(1)
    }

    /// What has changed. Returns whether anybody still reads.
    fn next(
        &mut self,
        settings: &ListSettings,
        before: &Inventory,
        now: &Inventory,
        lines: &mut Lines<'_>,
    ) -> Result<bool, Error> {
        let changes = changes(settings, before, now);
        match self {
            Self::Json(executables) => {
                let json = Json::new(&mut clock_now(), now.mono_ns);
                for (change, row) in &changes {
                    json.row(
                        row,
                        Some(change.name()),
                        |process| executables.of(process),
                        &mut lines.text,
                    );
                }
            }
            Self::Table(table, time) => {
                table.widen(changes.iter().map(|(_, row)| *row));
                let clock = clock_now();
                for (change, row) in &changes {
                    let lead = match time
                        .as_mut()
                        .and_then(|time| time.render(&clock, now.mono_ns))
                    {
                        Some((time, _)) => {
                            format!("{}  {}", String::from_utf8_lossy(time), change.text())
                        }
                        None => change.text().to_owned(),
                    };
                    table.row(&lead, change.style(), row, &mut lines.text);
                }
            }
        }
        lines.flush(1)
    }
}

/// What differs between two looks, of what is wanted now or was then.
fn changes<'a>(
    settings: &ListSettings,
    before: &'a Inventory,
    now: &'a Inventory,
) -> Vec<(Change, Row<'a>)> {
    let key = |row: &Row<'_>| (row.netns(), row.socket.cookie);
    let wanted = |row: &Row<'_>| is_wanted(row, settings);
    let then: HashMap<_, Row<'_>> = Row::all(before)
        .filter(wanted)
        .map(|row| (key(&row), row))
        .collect();
    let mut there = HashSet::new();
    let mut changes = Vec::new();
    for row in Row::all(now).filter(wanted) {
        there.insert(key(&row));
        match then.get(&key(&row)) {
            None => changes.push((Change::New, row)),
            Some(was) => {
                if let Some(before) = difference(was, &row) {
                    changes.push((Change::Changed(before), row));
                }
            }
        }
    }
    let mut gone: Vec<_> = then
        .into_iter()
        .filter(|(key, _)| !there.contains(key))
        .map(|(_, row)| (Change::Gone, row))
        .collect();
    gone.sort_by_key(|(_, row)| row.place());
    changes.extend(gone);
    changes
}

/// How it was before, if it is otherwise now.
fn difference(was: &Row<'_>, is: &Row<'_>) -> Option<String> {
    if was.state() != is.state() {
        return Some(format!("was {}", was.state().name()));
    }
    if was.is_queued() && !is.is_queued() {
        return Some("was not accepted".to_owned());
    }
    let owner = |row: &Row<'_>| row.owner().map(|owner| owner.process.pid);
    if owner(was) != owner(is) {
        return Some(match was.owner() {
            Some(owner) => format!("was {}'s", text::escape(owner.process.comm())),
            None => "was nobody's".to_owned(),
        });
    }
    let full = |row: &Row<'_>| row.is_full();
    (full(was) != full(is)).then(|| {
        if full(is) {
            "is full now".to_owned()
        } else {
            "was full".to_owned()
        }
    })
}
