//! `tcptrace listen`: the queues of listeners, and what is wrong there.

mod accepts;
mod live;

use std::process::ExitCode;

use tcptrace_common::tcp;

use super::list::{Lines, clock_now, load, passes, say_what_is_missing};
use crate::{
    bpf::Holders,
    cli::Format,
    error::Error,
    inventory::{self, By, Inventory, doing::Doing, dump::Wanted},
    kernel::{self, knobs::Knobs},
    output::Output,
    settings::listen::ListenSettings,
    sink::{
        list::Row,
        listen::{
            Listening, json,
            table::{self, Look},
        },
    },
};

/// Looks once, or again and again.
pub(super) fn run(settings: &ListenSettings) -> Result<ExitCode, Error> {
    let mut output = Output::open(None, false)?;
    let (mut holders, refused) = match load(&settings.kernel.btf) {
        Ok(holders) => (Some(holders), None),
        Err(why) => (None, Some(why)),
    };
    let mut lines = Lines::new(&mut output);
    if let Some(every) = settings.interval {
        return live::run(settings, every, holders, &mut lines);
    }
    let seen = look(holders.as_mut())?;
    say_what_is_missing(&seen.inventory, refused.as_ref());
    let all = seen.listening(settings);
    write(settings, all, &seen.inventory, &mut lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Listeners, what waits at them, and what governs them.
struct Seen {
    inventory: Inventory,
    knobs: Vec<Knobs>,
}

impl Seen {
    fn listening(&self, settings: &ListenSettings) -> Vec<Listening<'_>> {
        let wanted = |row: &Row<'_>| passes(&settings.filters, row);
        Listening::all(&self.inventory, wanted, &self.knobs)
    }
}

/// What waits is looked at only where somebody waits: it stands among all connections.
fn look(mut holders: Option<&mut Holders>) -> Result<Seen, Error> {
    const LISTENERS: u16 = 1 << tcp::LISTEN | 1 << tcp::SYN_RECV;
    const QUEUED: u16 = 1 << tcp::ESTABLISHED | 1 << tcp::CLOSE_WAIT;
    let wanted = |states, counters| Wanted {
        v4: true,
        v6: true,
        states,
        counters,
    };
    let mut inventory = inventory::take(wanted(LISTENERS, false), holders.as_deref_mut())?;
    let waits = |row: Row<'_>| row.socket.is_listener() && row.socket.recv_queue > 0;
    if Row::all(&inventory).any(waits) {
        inventory = inventory::take(wanted(LISTENERS | QUEUED, true), holders)?;
    }
    let knobs = inventory.in_each_namespace(Knobs::read);
    Ok(Seen { inventory, knobs })
}

/// Writes all rows, each with what is wrong there.
fn write(
    settings: &ListenSettings,
    all: Vec<Listening<'_>>,
    inventory: &Inventory,
    lines: &mut Lines<'_>,
) -> Result<bool, Error> {
    let looks = inventory.by != By::Kernel || kernel::shows_all_processes();
    let all: Vec<_> = all
        .into_iter()
        .map(|mut listening| {
            if looks
                && listening.is_troubled()
                && let Some(owner) = listening.holders().first()
            {
                listening.doing = Doing::look(owner.pid);
            }
            let trouble = listening.trouble();
            (listening, trouble)
        })
        .collect();
    if settings.view.format == Format::Json {
        let mut clock = clock_now();
        for (listening, trouble) in &all {
            let trouble = trouble.as_deref();
            json::row(
                listening,
                trouble,
                &mut clock,
                inventory.mono_ns,
                &mut lines.text,
            );
        }
    } else {
        let look = Look {
            width: lines.output.columns().filter(|_| !settings.view.wide),
            colored: settings.view.is_colored(lines.output.is_terminal()),
            header: settings.header,
            live: all.iter().any(|(listening, _)| listening.since.is_some()),
            netns: inventory.namespaces.len() > 1,
        };
        table::write(look, &all, &mut lines.text);
    }
    lines.flush(1)
}
