//! Which records there are.

use tcptrace_common::config::{
    EMIT_ACCEPT, EMIT_CLOSE, EMIT_LISTENER, EMIT_OWNER, EMIT_RESET, EMIT_RETRANSMIT,
    EMIT_TRANSITION,
};

use crate::{
    cli::{Compact, EventName, RecordArgs},
    error::Error,
    sink::Lines,
};

/// Which records there are.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own, and any combination is one"
)]
pub struct Records {
    /// Whether connections open at start are listed
    pub sockets: bool,
    /// Whether what is still open at the end is listed, and what was open at start among it
    pub open: bool,
    /// Of these, also those that were open at start
    pub former: bool,
    /// Of these, so many at most; none: all
    pub open_max: Option<u64>,
    /// `EMIT_*` that are shown
    pub print: u8,
    /// `EMIT_*` that the kernel side sends: those shown, and what they are chosen by
    pub emit: u8,
    /// Whether to say in words what transitions mean
    pub explain: bool,
    /// Whether command lines are wanted
    pub args: bool,
    /// Whether the line of an end has the states passed
    pub path: bool,
    /// Whether a narrow terminal decides that: nobody has asked for other records than usual
    may_be_compact: bool,
}

/// Fewer columns than this leave no room for a state change with both its states.
const COLUMNS_MIN: usize = 100;

/// Connections still open at the end that are listed.
const OPEN_MAX: u64 = 20;

impl Records {
    /// Checks what was typed. `is_counting`: only numbers are made of the records.
    pub fn parse(args: &RecordArgs, is_counting: bool) -> Result<Self, Error> {
        let mut events = args.events.clone();
        if args.summary && !events.is_empty() {
            return Err(Error::usage(
                "-s prints the close records only, --events chooses others; use one of them",
            ));
        }
        let compact = args.compact == Compact::Always;
        let may_be_compact =
            args.compact == Compact::Auto && events.is_empty() && !args.summary && !args.explain;
        if args.summary || ((compact || is_counting) && events.is_empty()) {
            events.extend([EventName::Close, EventName::Listener]);
        } else if events.is_empty() {
            events.extend([
                EventName::Socket,
                EventName::Transition,
                EventName::Accept,
                EventName::Owner,
                EventName::Close,
                EventName::Listener,
            ]);
        }
        let wants = |name| events.contains(&name) || events.contains(&EventName::All);
        let print = [
            (EventName::Transition, EMIT_TRANSITION),
            (EventName::Accept, EMIT_ACCEPT),
            (EventName::Close, EMIT_CLOSE),
            (EventName::Retransmit, EMIT_RETRANSMIT),
            (EventName::Reset, EMIT_RESET),
            (EventName::Owner, EMIT_OWNER),
            (EventName::Listener, EMIT_LISTENER),
        ]
        .into_iter()
        .filter(|(name, _)| wants(*name))
        .fold(0, |bits, (_, bit)| bits | bit);
        if args.all && !args.summary && !compact && !may_be_compact {
            return Err(Error::usage(
                "--all is about the connections still open at the end, which -s and --compact list; add one of \
                 them, or leave out --all",
            ));
        }
        if args.explain && print & EMIT_TRANSITION == 0 {
            return Err(Error::usage(
                "--explain explains transitions, and none are printed; leave out -s, or add \
                 transition to --events",
            ));
        }
        Ok(Self {
            sockets: wants(EventName::Socket) && !args.no_existing,
            open: args.summary || compact,
            former: !args.no_existing,
            open_max: (!args.all).then_some(OPEN_MAX),
            print,
            emit: print,
            explain: args.explain,
            args: args.args,
            path: compact,
            may_be_compact,
        })
    }

    /// One line for each connection, with the states it passed, where a terminal has too few columns for a
    /// line for each state change, and nobody has asked for other records.
    pub fn suit_terminal(&mut self, columns: Option<usize>) {
        if self.may_be_compact && columns.is_some_and(|columns| columns < COLUMNS_MIN) {
            self.sockets = false;
            self.open = true;
            self.print = EMIT_CLOSE | EMIT_LISTENER;
            self.emit = (self.emit & EMIT_CLOSE) | self.print;
            self.path = true;
        }
    }

    /// Whether any of these (`EMIT_*`) are shown.
    pub const fn shows(&self, kinds: u8) -> bool {
        self.print & kinds != 0
    }

    /// Which lines there are.
    pub const fn lines(&self) -> Lines {
        Lines {
            transition: self.shows(EMIT_TRANSITION),
            explain: self.explain,
            path: self.path,
        }
    }
}
