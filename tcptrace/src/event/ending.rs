//! Why a connection ended, and who ended it: what a last record holds, as [`Evidence`].

use std::borrow::Cow;

use tcptrace_common::{
    record::{
        ACT_KILLED, END_ACKED, END_ERROR_BEFORE, END_HELD, END_QUEUED, END_READ, END_SOFT,
        KNOWN_COUNTERS, KNOWN_EXPIRED, KNOWN_NO_FIN, RESET_EITHER, RESET_RECEIVED, RESET_SENT,
        ROLE_LISTENER,
    },
    tcp,
};

use super::{
    Act, Cause, Close, ClosedBy, Reason,
    close::RCV_SHUTDOWN,
    evidence::{self, Ending, Evidence, Holder, Reset},
};

/// Who gives up a connection attempt after this long has waited for it: the first retransmission timeout
/// (`TCP_TIMEOUT_INIT`, RFC 6298 §2.1).
const PATIENCE_US: u64 = 1_000_000;

/// Signals by their numbers from 1 on, which are the same on all architectures that the kernel side is for
/// (include/uapi/asm-generic/signal.h).
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

impl Close {
    /// Why it ended
    pub const fn reason(&self) -> Reason {
        self.ending.reason
    }

    /// Why it ended, as far as the path, the RSTs that were seen and the socket's error prove it.
    pub(super) fn find_ending(&self) -> Ending {
        // A listener may keep the error of what the socket was before.
        if self.path.head.role == ROLE_LISTENER {
            return Ending {
                reason: Reason::Normal,
                by_error: false,
                cause: None,
            };
        }
        self.evidence().ending()
    }

    fn evidence(&self) -> Evidence {
        let passed = |states: &[u8]| {
            let mut path = self.path().iter();
            path.any(|step| states.contains(&step.state()))
        };
        let from = self.path.head.old;
        let known = |bit| self.counters.known & bit != 0;
        let end = |bit| self.counters.end & bit != 0;
        // Where the limit of time-wait sockets is reached, the peer's FIN leads to `CLOSE`.
        let fin_in_place = from == tcp::FIN_WAIT2
            && self.path.head.new == tcp::CLOSE
            && end(END_READ)
            && !known(KNOWN_NO_FIN)
            && !self.is_moved();
        Evidence {
            from,
            peer_fin: fin_in_place
                || passed(&[tcp::CLOSE_WAIT, tcp::LAST_ACK, tcp::CLOSING, tcp::TIME_WAIT]),
            fin_acked: passed(&[tcp::FIN_WAIT2, tcp::TIME_WAIT])
                || (end(END_ACKED) && matches!(from, tcp::LAST_ACK | tcp::CLOSING)),
            reset: match self.counters.reset {
                RESET_RECEIVED => Reset::Received,
                RESET_EITHER => Reset::Either,
                RESET_SENT => Reset::Sent,
                _ => Reset::None,
            },
            error: self.own_error(),
            soft: end(END_SOFT),
            holder: if end(END_HELD) {
                Holder::User
            } else if end(END_QUEUED) {
                Holder::Queue
            } else if end(END_READ) {
                Holder::Nobody
            } else {
                Holder::Unknown
            },
            closing: self.is_by_close(),
            abort: Cause::from_number(self.counters.abort),
            sent: known(KNOWN_COUNTERS) && self.counters.tx_segs != 0,
            waited: from == tcp::SYN_SENT && self.has_waited(),
            expired: known(KNOWN_EXPIRED),
            deduced: self.is_deduced(),
        }
    }

    /// Whether its SYN was sent again, or has waited for long. Nothing waits where none was sent, as after
    /// `connect()` with `TCP_FASTOPEN_CONNECT`.
    fn has_waited(&self) -> bool {
        let long = self.connect_us().is_some_and(|us| us >= PATIENCE_US);
        if self.counters.known & KNOWN_COUNTERS == 0 {
            return long;
        }
        self.counters.retransmits != 0 || (long && self.counters.tx_segs != 0)
    }

    /// The socket's error, if it is of this life: the next SYN clears that of the one before
    /// (`tcp_connect_init`).
    const fn own_error(&self) -> u32 {
        let counted = self.counters.known & KNOWN_COUNTERS != 0;
        let former = if counted {
            self.counters.tx_segs == 0
        } else {
            self.counters.end & END_ERROR_BEFORE != 0
        };
        if self.path.head.old == tcp::SYN_SENT && former {
            0
        } else {
            self.path.err
        }
    }

    /// Whether its [`Close::reason`] is inferred: an RST may have come.
    pub fn is_reason_inferred(&self) -> bool {
        self.may_be_data()
    }

    /// Whether in place of an RST data may have come after our `close()`, which we answered with an RST:
    /// the kernel then goes through `tcp_reset` as well.
    fn may_be_data(&self) -> bool {
        self.reason() == Reason::ResetReceived
            && !self.is_moved()
            && matches!(self.path.head.old, tcp::FIN_WAIT1 | tcp::FIN_WAIT2)
            && self.path.shutdown & RCV_SHUTDOWN != 0
            && self.counters.reset != RESET_RECEIVED
    }

    /// Who closed it: who sent the first FIN, or the RST that ended it
    pub fn closed_by(&self) -> Option<ClosedBy> {
        if self.path.head.role == ROLE_LISTENER {
            return None;
        }
        match self.reason() {
            Reason::ResetReceived if self.may_be_data() => {}
            Reason::Refused | Reason::ResetReceived => return Some(ClosedBy::Remote),
            Reason::Canceled | Reason::GaveUp | Reason::ResetSent | Reason::ListenerClosed => {
                return Some(ClosedBy::Local);
            }
            _ => {}
        }
        let mut states = self.path().iter().map(|step| step.state());
        if states.clone().any(|state| state == tcp::CLOSING) {
            return Some(ClosedBy::Both);
        }
        states.find_map(|state| match state {
            tcp::FIN_WAIT1 | tcp::FIN_WAIT2 | tcp::TIME_WAIT => Some(ClosedBy::Local),
            tcp::CLOSE_WAIT | tcp::LAST_ACK => Some(ClosedBy::Remote),
            _ => None,
        })
    }

    /// By what our side aborted it
    pub const fn cause(&self) -> Option<Cause> {
        self.ending.cause
    }

    /// By what the process that closed it did so
    pub fn closed_because(&self) -> Option<Act> {
        self.closer_pid()?;
        Act::from_number(self.counters.act)
    }

    /// The signal that ended the process that closed it, by its symbol, or its number if it has none
    pub fn signal(&self) -> Option<Cow<'static, str>> {
        if self.closed_because()? != Act::Killed {
            return None;
        }
        let number = usize::from(self.counters.act & !ACT_KILLED);
        let symbol = number.checked_sub(1).and_then(|at| SIGNALS.get(at));
        Some(symbol.map_or_else(
            || number.to_string().into(),
            |symbol| Cow::Borrowed(*symbol),
        ))
    }

    /// The error that its end left, by its symbol, or its number if it is one that TCP does not use
    pub fn errno(&self) -> Option<Cow<'static, str>> {
        let error = self.error()?;
        Some(evidence::symbol(error).map_or_else(|| error.to_string().into(), Cow::Borrowed))
    }

    /// The error that its end left; none if there is none, or one that has nothing to do with it
    pub fn error(&self) -> Option<u32> {
        self.ending.by_error.then_some(self.path.err)
    }
}
