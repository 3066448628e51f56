//! Why a connection ended, and who ended it.

use tcptrace_common::{
    record::{
        KNOWN_BY_ELIMINATION, KNOWN_COUNTERS, KNOWN_EXPIRED, KNOWN_NO_FIN, RESET_EITHER,
        RESET_RECEIVED, RESET_SENT, ROLE_LISTENER, ROLE_SERVER,
    },
    tcp,
};

use super::{
    Close, ClosedBy, Reason,
    close::{RCV_SHUTDOWN, SHUTDOWN_BOTH},
};

impl Close {
    /// Why it ended
    pub const fn reason(&self) -> Reason {
        self.reason
    }

    /// Why it ended, as far as the path, the socket's error and the RSTs that were seen prove it.
    pub(super) fn find_reason(&self) -> Reason {
        let path = self.path();
        let passed = |state| path.iter().any(|step| step.state() == state);
        let both_fins = passed(tcp::FIN_WAIT2)
            || passed(tcp::CLOSING)
            || passed(tcp::LAST_ACK)
            || passed(tcp::TIME_WAIT);
        // Set by `tcp_close` before the state changes, by `tcp_done` after it.
        let by_close = self.is_by_close();
        let from = self.path.head.old;
        let open = matches!(from, tcp::ESTABLISHED | tcp::CLOSE_WAIT);
        // A listener may keep the error of what the socket was before.
        if self.path.head.role == ROLE_LISTENER {
            return Reason::Normal;
        }
        match (self.path.err, self.counters.reset) {
            (ECONNREFUSED, _) if matches!(from, tcp::SYN_SENT | tcp::SYN_RECV) => Reason::Refused,
            // Later, it is what `tcp_write_err` says in place of it, if an ICMP message said so before.
            (ETIMEDOUT | ECONNREFUSED, _) => Reason::Timeout,
            (EHOSTUNREACH | ENETUNREACH, _) => Reason::Unreachable,
            (ECONNABORTED, _) => Reason::ResetSent,
            (ECONNRESET | EPIPE, _) | (0, RESET_RECEIVED | RESET_EITHER) => Reason::ResetReceived,
            (0, RESET_SENT) => Reason::ResetSent,
            // What else the socket says of its end may be from before it, or gone.
            (0, _) if self.is_deduced() => Reason::Unknown,
            // No port for it, or no memory: the kernel gave up, before any SYN.
            (0, _) if from == tcp::SYN_SENT && !by_close && self.has_sent_nothing() => {
                Reason::Unknown
            }
            (0, _) if from == tcp::SYN_SENT => Reason::Canceled,
            // The peer's FIN never came.
            (0, _) if self.counters.known & KNOWN_EXPIRED != 0 => Reason::Timeout,
            (0, _) if self.ends_without_fin() || self.counters.known & KNOWN_NO_FIN != 0 => {
                Reason::Unknown
            }
            (0, _) if both_fins => Reason::Normal,
            // Neither FIN went out: `tcp_close` with linger 0 or unread data aborts.
            (0, _) if by_close && open => Reason::ResetSent,
            // `inet_csk_listen_stop` ends what nobody has accepted.
            (0, _)
                if self.path.head.role == ROLE_SERVER
                    && self.path.accept_ns == 0
                    && self.path.shutdown != SHUTDOWN_BOTH
                    && open =>
            {
                Reason::ListenerClosed
            }
            // `tcp_disconnect`, which resets.
            (0, _) if open => Reason::ResetSent,
            _ => Reason::Unknown,
        }
    }

    /// Whether its [`Close::reason`] is inferred: a reset, because nothing else is left, or because an RST
    /// may have come.
    pub fn is_reason_inferred(&self) -> bool {
        self.counters.known & KNOWN_BY_ELIMINATION != 0 || self.may_be_data()
    }

    /// Whether in place of an RST data may have come after our `close()`, which we answered with an RST:
    /// the kernel then goes through `tcp_reset` as well.
    fn may_be_data(&self) -> bool {
        self.reason == Reason::ResetReceived
            && !self.is_moved()
            && matches!(self.path.head.old, tcp::FIN_WAIT1 | tcp::FIN_WAIT2)
            && self.path.shutdown & RCV_SHUTDOWN != 0
            && self.counters.reset != RESET_RECEIVED
    }

    const fn has_sent_nothing(&self) -> bool {
        self.counters.known & KNOWN_COUNTERS != 0 && self.counters.tx_segs == 0
    }

    /// Whether it ended in a time-wait socket that still waited for the peer's FIN.
    const fn ends_without_fin(&self) -> bool {
        self.is_moved() && self.path.head.new == tcp::CLOSE
    }

    /// Who closed it: who sent the first FIN, or the RST that ended it
    pub fn closed_by(&self) -> Option<ClosedBy> {
        if self.path.head.role == ROLE_LISTENER {
            return None;
        }
        match self.reason {
            Reason::ResetReceived if self.may_be_data() => {}
            Reason::Refused | Reason::ResetReceived => return Some(ClosedBy::Remote),
            Reason::Canceled | Reason::ResetSent | Reason::ListenerClosed => {
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

    /// The socket's error as its symbol
    pub const fn errno(&self) -> Option<&'static str> {
        if self.path.head.role == ROLE_LISTENER {
            return None;
        }
        Some(match self.path.err {
            ECONNREFUSED => "ECONNREFUSED",
            ETIMEDOUT => "ETIMEDOUT",
            EHOSTUNREACH => "EHOSTUNREACH",
            ENETUNREACH => "ENETUNREACH",
            ECONNRESET => "ECONNRESET",
            EPIPE => "EPIPE",
            ECONNABORTED => "ECONNABORTED",
            _ => return None,
        })
    }
}

// include/uapi/asm-generic/errno.h
const EPIPE: u32 = 32;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
/// `sk_err` after a timeout
pub const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTUNREACH: u32 = 113;
