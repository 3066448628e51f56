//! From a record to the consumers: decode, select, count, hand on.

use super::{accounting::Accounting, consumer::Outputs, select::Selection};
use crate::{
    error::Error,
    event::Event,
    identity::{process::Processes, procfs},
    kernel::netstat::Cookies,
    settings::Settings,
};

use super::Flow;

/// Selection, accounting and outputs of a trace.
pub(super) struct Dispatch {
    selection: Selection,
    pub(super) accounting: Accounting,
    pub(super) outputs: Outputs,
    /// SYN cookies sent, for `listener` records
    pub(super) cookies: Option<Cookies>,
    /// The processes that own connections
    pub(super) processes: Processes,
    /// Whether command lines are wanted
    args: bool,
    /// A consumer has no room before the next flush
    is_batch_full: bool,
}

impl Dispatch {
    pub(super) fn new(settings: &Settings, outputs: Outputs) -> Self {
        Self {
            selection: Selection::new(settings),
            accounting: Accounting::new(settings.records, settings.run.count),
            outputs,
            cookies: None,
            processes: Processes::default(),
            args: settings.records.args,
            is_batch_full: false,
        }
    }

    /// Takes what a record says of a process; whether it is such a record.
    pub(super) fn learn(&self, record: &[u8]) -> bool {
        let Some(unsaid) = self.processes.learn(record) else {
            return false;
        };
        if unsaid.exe || (unsaid.args && self.args) {
            procfs::add(&self.processes, &unsaid, self.args);
        }
        true
    }

    /// Takes a record; whether there may be another before [`Dispatch::flush`].
    pub(super) fn take(&mut self, record: &[u8]) -> bool {
        if self.learn(record) || !self.selection.takes(record) {
            return true;
        }
        if let Err(why) = Event::decode(record, |event| self.event(event)) {
            self.accounting.malformed += 1;
            log::debug!("{why}");
        }
        !self.is_batch_full && !self.accounting.is_full()
    }

    /// Takes an event; whether another is wanted.
    fn event(&mut self, event: &Event) -> bool {
        let choice = self.selection.choose(event);
        if choice.begins {
            self.accounting.begins(event.connection().role());
        }
        if !choice.is_shown {
            return true;
        }
        if matches!(event, Event::Open(_)) && !self.accounting.is_open() {
            return true;
        }
        self.accounting.count(event);
        let has_room = match (event, &mut self.cookies) {
            (Event::Listener(listener), Some(cookies)) => {
                let mut listener = *listener;
                listener.set_cookies_sent(cookies.since(listener.connection().netns().into()));
                self.outputs.event(&Event::Listener(listener))
            }
            _ => self.outputs.event(event),
        };
        self.is_batch_full |= !has_room;
        !self.accounting.is_full()
    }

    /// Whether a consumer has no room before the next flush.
    pub(super) const fn is_batch_full(&self) -> bool {
        self.is_batch_full
    }

    /// Has consumers hand on what has gathered.
    pub(super) fn flush(&mut self) -> Result<Flow, Error> {
        let flow = self.outputs.flush()?;
        self.is_batch_full = false;
        self.accounting.written = self.accounting.records;
        Ok(flow)
    }

    /// From here on records are only counted: an output has failed.
    pub(super) fn mute(&mut self) {
        self.outputs = Outputs::default();
        self.cookies = None;
        self.is_batch_full = false;
    }
}
