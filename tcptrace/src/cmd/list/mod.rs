//! `tcptrace list`: what is there now.

mod watch;

use std::{
    cell::RefCell, cmp::Ordering, collections::HashMap, path::Path, process::ExitCode,
    time::Duration,
};

use anstyle::Style;

use crate::{
    bpf::{self, Holders},
    cli::Format,
    error::Error,
    filter::{Filters, Owner, Subject},
    identity,
    inventory::{
        self, By, Inventory,
        dump::{ALL_STATES, Wanted},
        holding::Process,
        procfs,
    },
    kernel::{self, Kernel, capability},
    output::{Output, Written},
    settings::list::{ListSettings, Sort},
    sink::{
        list::{
            Row,
            column::{Column, Key},
            json::Json,
            table::{Plan, Table},
        },
        text,
        time::Clock,
    },
};

/// Lines are written in pieces of about this size.
const PIECE_BYTES: usize = 256 * 1024;

/// Looks once, and prints it.
pub(super) fn run(settings: &ListSettings) -> Result<ExitCode, Error> {
    let mut output = Output::open(None, false)?;
    let width = output.columns();
    let wanted = Wanted {
        v4: true,
        v6: true,
        states: ALL_STATES,
        counters: settings.needs_counters(width),
    };
    let (mut holders, refused) = match load(&settings.btf) {
        Ok(holders) => (Some(holders), None),
        Err(why) => (None, Some(why)),
    };
    let mut inventory = inventory::take(wanted, holders.as_mut())?;
    let tracers = learn(&mut inventory);
    if tracers == 0 && settings.asks_for_ages() {
        log::warn!("ages are known of what begins while a trace runs: sudo tcptrace -o FILE");
    }
    say_what_is_missing(&inventory, refused.as_ref());
    let mut lines = Lines::new(&mut output);
    if let Some(every) = settings.watch {
        watch::run(
            settings,
            every,
            wanted,
            holders.as_mut(),
            inventory,
            &mut lines,
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    drop(holders);
    let mut rows: Vec<Row<'_>> = Row::all(&inventory)
        .filter(|row| is_wanted(row, settings))
        .collect();
    arrange(&mut rows, settings.sort);
    if settings.view.format == Format::Json {
        write_json(&inventory, &rows, &mut lines)?;
    } else {
        let plan = plan(settings, &inventory, &lines);
        write_table(&plan, settings.header, &rows, &mut lines)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(settings: &ListSettings, inventory: &Inventory, lines: &Lines<'_>) -> Plan {
    Plan {
        columns: settings.columns.clone(),
        width: lines.output.columns().filter(|_| !settings.view.wide),
        colored: settings.view.is_colored(lines.output.is_terminal()),
        idle: idle_columns(inventory),
        lead: 0,
    }
}

/// The wall clock as it is now.
pub(super) fn clock_now() -> Clock {
    let mut clock = Clock::default();
    clock.set(kernel::wall_minus_mono_ns());
    clock
}

fn write_json(inventory: &Inventory, rows: &[Row<'_>], lines: &mut Lines<'_>) -> Result<(), Error> {
    let json = Json::new(&mut clock_now(), inventory.mono_ns);
    let executables = Executables::new(inventory.by);
    for row in rows {
        json.row(
            row,
            None,
            |process| executables.of(process),
            &mut lines.text,
        );
        if !lines.flush(PIECE_BYTES)? {
            break;
        }
    }
    lines.flush(1)?;
    Ok(())
}

fn write_table(
    plan: &Plan,
    header: bool,
    rows: &[Row<'_>],
    lines: &mut Lines<'_>,
) -> Result<(), Error> {
    let mut table = Table::new(plan, rows.iter().copied());
    if header {
        table.header(&mut lines.text);
    }
    for row in rows {
        table.row("", Style::new(), row, &mut lines.text);
        if !lines.flush(PIECE_BYTES)? {
            break;
        }
    }
    lines.flush(1)?;
    Ok(())
}

/// The program that tells who holds what, if it may be loaded here.
pub(super) fn load(btf: &Path) -> Result<Holders, Error> {
    let missing = capability::missing();
    if !missing.is_empty() {
        return Err(Error::CannotTrace(capability::how_to_give(&missing)));
    }
    kernel::refuse_lockdown()?;
    let kernel = Kernel::look(btf)?;
    Holders::load(&kernel)
}

/// Lines on their way out.
pub(super) struct Lines<'a> {
    pub(super) output: &'a mut Output,
    pub(super) text: Vec<u8>,
    closed: bool,
}

impl<'a> Lines<'a> {
    pub(super) fn new(output: &'a mut Output) -> Self {
        Self {
            output,
            text: Vec::new(),
            closed: false,
        }
    }

    /// Writes what has come together, if that is much enough. Returns whether anybody still reads.
    pub(super) fn flush(&mut self, least_bytes: usize) -> Result<bool, Error> {
        if self.text.len() >= least_bytes && !self.closed {
            self.closed = self.output.write(&self.text)? == Written::Closed;
            self.text.clear();
        }
        Ok(!self.closed)
    }
}

/// Whether the filters let a socket pass. Its owners are gathered only where somebody asks for them.
pub(super) fn passes(filters: &Filters, row: &Row<'_>) -> bool {
    let socket = row.socket;
    let mut holders: Vec<&Process> = Vec::new();
    if filters.ask_for_owners() {
        holders.extend(row.holders().map(|(process, _)| process));
        let owner = row.owner().map(|owner| owner.process);
        holders.extend(owner.filter(|_| holders.is_empty()));
    }
    let pids: Vec<_> = holders.iter().map(|process| process.pid).collect();
    let places: Vec<_> = pids
        .iter()
        .map(|pid| identity::procfs::place(*pid))
        .collect();
    let owners: Vec<_> = holders
        .iter()
        .zip(&places)
        .map(|(process, place)| Owner {
            comm: process.comm(),
            exe: place.exe.as_deref(),
            uid: process.uid,
            cgroups: &place.cgroups,
            cgroup_path: place.cgroup_path.as_deref(),
        })
        .collect();
    let is_listener = socket.is_listener();
    filters.matches(&Subject {
        pids: &pids,
        owners: &owners,
        netns: Some(row.netns()),
        laddr: Some(socket.local),
        raddr: (!is_listener).then_some(socket.remote),
        is_v4: socket.local.is_ipv4(),
        lport: Some(socket.lport),
        rport: (!is_listener).then_some(socket.rport),
        role: row.role(),
        state: row.state(),
    })
}

fn is_wanted(row: &Row<'_>, settings: &ListSettings) -> bool {
    let us = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    passes(&settings.filters, row)
        && settings
            .idle
            .is_none_or(|least| row.idle_us().is_some_and(|idle| idle >= us(least)))
        && settings.older_than.is_none_or(|least| {
            let age = row.past().and_then(|past| past.age_us);
            age.is_some_and(|age| age >= us(least))
        })
}

/// Columns that would say nothing, or the same in each row.
fn idle_columns(inventory: &Inventory) -> Vec<Column> {
    let mut idle = Vec::new();
    if inventory.namespaces.len() < 2 {
        idle.push(Column::Netns);
    }
    if !inventory.knows_pasts() {
        idle.extend([Column::InState, Column::Age]);
    }
    idle
}

/// Sorted as asked; else namespace by namespace, our own first, listeners before connections, by port.
fn arrange(rows: &mut [Row<'_>], sort: Option<Sort>) {
    let Some(Sort { column, reverse }) = sort else {
        rows.sort_unstable_by_key(|row| {
            let socket = row.socket;
            (
                socket.netns,
                !socket.is_listener(),
                socket.lport,
                socket.local,
                socket.remote,
                socket.rport,
            )
        });
        return;
    };
    let order = |one: &Option<Key>, other: &Option<Key>| match (one, other) {
        (Some(one), Some(other)) if reverse => other.cmp(one),
        (Some(one), Some(other)) => one.cmp(other),
        // What is not known comes last, whichever way.
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    };
    let mut keyed: Vec<_> = rows.iter().map(|row| (column.key(row), *row)).collect();
    keyed.sort_by(|(one, _), (other, _)| order(one, other));
    for (row, (_, sorted)) in rows.iter_mut().zip(keyed) {
        *row = sorted;
    }
}

/// Paths of executables, each looked up once.
struct Executables {
    known: RefCell<HashMap<u32, Option<Vec<u8>>>>,
    /// Whether our `/proc` has these processes under their numbers
    looks: bool,
}

impl Executables {
    fn new(by: By) -> Self {
        Self {
            known: RefCell::default(),
            looks: by != By::Kernel || kernel::shows_all_processes(),
        }
    }

    fn of(&self, process: &Process) -> Option<Vec<u8>> {
        if !self.looks {
            return None;
        }
        let mut known = self.known.borrow_mut();
        known
            .entry(process.pid)
            .or_insert_with(|| procfs::executable(process.pid))
            .clone()
    }
}

/// Asks the tracers that run on this host what they know. Returns how many there are.
fn learn(inventory: &mut Inventory) -> usize {
    let (tracers, others) = bpf::read_live(|known| inventory.know(known));
    if others > 0 {
        log::warn!("a tracer of another version runs here; what it knows is not shown");
    }
    tracers
}

/// What could not be seen, and what to do about it, in one line.
pub(super) fn say_what_is_missing(inventory: &Inventory, refused: Option<&Error>) {
    let mut parts = Vec::new();
    if let By::Proc { hidden } = inventory.by
        && hidden > 0
    {
        let processes = plural(hidden, "process", "processes");
        parts.push(format!(
            "what {processes} hold that we may not look into, and network namespaces that only they are in"
        ));
    }
    if !kernel::shows_all_processes() {
        parts.push("what processes outside of this PID namespace hold".to_owned());
    }
    if !inventory.unseen.is_empty() {
        let number = u64::try_from(inventory.unseen.len()).unwrap_or(u64::MAX);
        parts.push(plural(
            number,
            "other network namespace",
            "other network namespaces",
        ));
    }
    if inventory.vanished > 0 && parts.is_empty() {
        let sockets = plural(inventory.vanished, "socket was", "sockets were");
        log::info!("{sockets} let go by everybody while we looked");
    }
    if !parts.is_empty() {
        log::warn!(
            "not shown: {}; run it with sudo on the host",
            parts.join("; ")
        );
    } else if let Some(why) = refused {
        log::info!("who holds what is from /proc: {why}");
    }
}

fn plural(number: u64, one: &str, more: &str) -> String {
    let noun = if number == 1 { one } else { more };
    format!("{} {noun}", text::count(number))
}
