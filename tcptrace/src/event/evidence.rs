//! From what is known of a connection's end to why it ended: the table in docs/events.md
//! ("How `reason` is decided").
//!
//! Kernel functions named here are those of `net/ipv4/tcp*.c`, Linux 5.10 to 7.3.

use tcptrace_common::tcp;

use super::{Cause, Reason};

/// What is known of a connection's end. What is not known is `false`, 0 or `Unknown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and the model test combines them"
)]
pub(super) struct Evidence {
    /// The state that it left: `tcp::*`
    pub from: u8,
    /// The peer's FIN came
    pub peer_fin: bool,
    /// Our FIN was acknowledged, with all that we sent before it
    pub fin_acked: bool,
    /// The first RST that was seen
    pub reset: Reset,
    /// The socket's error, set in this life; 0: none
    pub error: u32,
    /// The error is the one that was kept for when time runs out (`sk_err_soft`)
    pub soft: bool,
    /// Who had the socket when it left its last state
    pub holder: Holder,
    /// Both directions were shut in this life, before the state changed
    pub closing: bool,
    /// How our side aborts it, if it does
    pub abort: Option<Cause>,
    /// A segment was sent
    pub sent: bool,
    /// The SYN was sent again, or stayed without an answer for a second
    pub waited: bool,
    /// The time was over that the kernel waits for the peer's FIN
    pub expired: bool,
    /// The last state change went unseen: what was read of the socket may be from after it
    pub deduced: bool,
}

/// An RST that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reset {
    /// None
    None,
    /// One came
    Received,
    /// One came, or data that nobody can read any more, which the kernel answers with one
    Either,
    /// We sent one that the socket did not outlive
    Sent,
}

/// Who has a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// It is not known
    Unknown,
    /// Whoever connected or accepted has not closed it, or is just doing so
    User,
    /// The accept queue of a listener that listens no more
    Queue,
    /// It was closed before
    Nobody,
}

/// What the evidence proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    /// Why it ended
    pub reason: Reason,
    /// The socket's error has to do with it
    pub by_error: bool,
    /// By what our side aborted it
    pub cause: Option<Cause>,
}

impl Evidence {
    /// Why it ended: the first row of the table that fits.
    pub(super) fn ending(&self) -> Ending {
        let ending = |reason, by_error| Ending {
            reason,
            by_error,
            cause: None,
        };
        if let Some(reason) = self.by_path().or_else(|| self.by_received_reset()) {
            return ending(reason, reason != Reason::Normal && self.error != 0);
        }
        if let Some(reason) = self.by_error() {
            let destroyed = self.error == ECONNABORTED;
            return Ending {
                cause: destroyed.then_some(Cause::Destroyed),
                ..ending(reason, true)
            };
        }
        if self.reset == Reset::Sent {
            return Ending {
                cause: self.abort.filter(|_| self.is_abort_seen()),
                ..ending(Reason::ResetSent, false)
            };
        }
        if self.deduced {
            return ending(Reason::Unknown, false);
        }
        let (reason, by_error) = self.by_absence();
        let aborted = reason == Reason::ResetSent && self.is_abort_seen();
        Ending {
            cause: self.abort.filter(|_| aborted),
            ..ending(reason, by_error)
        }
    }

    /// Whether what is known of an abort is of this end: the user's, as it left its last state, or that of
    /// a time-wait socket, which nobody holds.
    fn is_abort_seen(&self) -> bool {
        match self.abort {
            Some(Cause::DataAfterClose) => self.reset == Reset::Sent,
            _ => self.holder == Holder::User && !self.deduced,
        }
    }

    /// FINs both ways, and ours acknowledged: whatever error is pending, nothing was left to fail.
    fn by_path(&self) -> Option<Reason> {
        (self.peer_fin && self.fin_acked).then_some(Reason::Normal)
    }

    /// `tcp_reset` ends the socket at once.
    fn by_received_reset(&self) -> Option<Reason> {
        if !matches!(self.reset, Reset::Received | Reset::Either) {
            return None;
        }
        match (self.from, self.deduced) {
            (tcp::SYN_SENT, false) => Some(Reason::Refused),
            // It may have been established meanwhile. The error tells.
            (tcp::SYN_SENT, true) => match self.error {
                ECONNREFUSED => Some(Reason::Refused),
                ECONNRESET | EPIPE => Some(Reason::ResetReceived),
                _ => Some(Reason::Unknown),
            },
            _ => Some(Reason::ResetReceived),
        }
    }

    /// An error that nothing but the end itself leaves.
    fn by_error(&self) -> Option<Reason> {
        let opening = matches!(self.from, tcp::SYN_SENT | tcp::SYN_RECV) && !self.deduced;
        match self.error {
            ETIMEDOUT => Some(Reason::Timeout),
            // `tcp_abort`
            ECONNABORTED => Some(Reason::ResetSent),
            EPIPE => Some(Reason::ResetReceived),
            // `tcp_disconnect` leaves it as well, after the state has changed.
            ECONNRESET if !self.deduced => Some(Reason::ResetReceived),
            // Before the handshake is complete, an ICMP message ends the socket (`tcp_v4_err`).
            ECONNREFUSED if opening => Some(Reason::Refused),
            // Later it is kept, and is what `tcp_write_err` says when time runs out.
            ECONNREFUSED if self.soft && !self.deduced => Some(Reason::Timeout),
            error if is_icmp(error) && (opening || (self.soft && !self.deduced)) => {
                Some(Reason::Unreachable)
            }
            // Otherwise it is pending, for `IP_RECVERR`, or from before.
            _ => None,
        }
    }

    /// Neither an RST nor an error: who could still have ended it.
    fn by_absence(&self) -> (Reason, bool) {
        let queued = matches!(
            self.from,
            tcp::SYN_RECV | tcp::ESTABLISHED | tcp::CLOSE_WAIT
        );
        let open = matches!(self.from, tcp::ESTABLISHED | tcp::CLOSE_WAIT);
        // `tcp_need_reset`
        let resets = queued || matches!(self.from, tcp::FIN_WAIT1 | tcp::FIN_WAIT2);
        let reason = match self.from {
            // An error that no row knows, which ended it nevertheless.
            tcp::SYN_SENT | tcp::SYN_RECV if self.error != 0 => return (Reason::Unknown, true),
            // Without a SYN the kernel may have given up: no port for it, or no memory.
            tcp::SYN_SENT if self.waited && self.sent => Reason::GaveUp,
            // It is not known whether there was a SYN to wait for.
            tcp::SYN_SENT if self.waited => Reason::Unknown,
            tcp::SYN_SENT if self.sent || self.closing => Reason::Canceled,
            tcp::FIN_WAIT2 if self.expired => Reason::Timeout,
            // `inet_csk_listen_stop`
            _ if queued && self.holder == Holder::Queue => Reason::ListenerClosed,
            // `tcp_close` with linger 0 or unread data, and `tcp_disconnect`: both reset. All other ends of
            // what somebody holds leave an error.
            _ if resets && self.holder == Holder::User => Reason::ResetSent,
            // The same, of an MPTCP subflow, which its connection closes.
            _ if open && self.closing => Reason::ResetSent,
            _ => Reason::Unknown,
        };
        (reason, false)
    }
}

/// Whether the kernel makes this error of an ICMP message that says there is no way
/// (`icmp_err_convert`, `tab_unreach` of net/ipv6/icmp.c), or finds itself that there is none.
const fn is_icmp(error: u32) -> bool {
    matches!(
        error,
        EHOSTUNREACH
            | ENETUNREACH
            | EHOSTDOWN
            | ENETDOWN
            | ENONET
            | EACCES
            | EPERM
            | EPROTO
            | ENOPROTOOPT
            | EOPNOTSUPP
    )
}

/// An error's symbol, if it is one that a TCP socket may have.
pub(super) const fn symbol(error: u32) -> Option<&'static str> {
    Some(match error {
        EPERM => "EPERM",
        ENOMEM => "ENOMEM",
        EACCES => "EACCES",
        EINVAL => "EINVAL",
        EPIPE => "EPIPE",
        ENONET => "ENONET",
        EPROTO => "EPROTO",
        EBADMSG => "EBADMSG",
        EMSGSIZE => "EMSGSIZE",
        ENOPROTOOPT => "ENOPROTOOPT",
        EOPNOTSUPP => "EOPNOTSUPP",
        EADDRNOTAVAIL => "EADDRNOTAVAIL",
        ENETDOWN => "ENETDOWN",
        ENETUNREACH => "ENETUNREACH",
        ECONNABORTED => "ECONNABORTED",
        ECONNRESET => "ECONNRESET",
        ENOBUFS => "ENOBUFS",
        ETIMEDOUT => "ETIMEDOUT",
        ECONNREFUSED => "ECONNREFUSED",
        EHOSTDOWN => "EHOSTDOWN",
        EHOSTUNREACH => "EHOSTUNREACH",
        _ => return None,
    })
}

// include/uapi/asm-generic/errno-base.h, errno.h
const EPERM: u32 = 1;
const ENOMEM: u32 = 12;
const EACCES: u32 = 13;
const EINVAL: u32 = 22;
const EPIPE: u32 = 32;
const ENONET: u32 = 64;
const EPROTO: u32 = 71;
const EBADMSG: u32 = 74;
const EMSGSIZE: u32 = 90;
const ENOPROTOOPT: u32 = 92;
const EOPNOTSUPP: u32 = 95;
const EADDRNOTAVAIL: u32 = 99;
const ENETDOWN: u32 = 100;
const ENETUNREACH: u32 = 101;
const ECONNABORTED: u32 = 103;
const ECONNRESET: u32 = 104;
const ENOBUFS: u32 = 105;
/// `sk_err` after a timeout
pub const ETIMEDOUT: u32 = 110;
const ECONNREFUSED: u32 = 111;
const EHOSTDOWN: u32 = 112;
/// `sk_err` where an ICMP message says that there is no way
pub const EHOSTUNREACH: u32 = 113;

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Evidence = Evidence {
        from: 0,
        peer_fin: false,
        fin_acked: false,
        reset: Reset::None,
        error: 0,
        soft: false,
        holder: Holder::Unknown,
        closing: false,
        abort: None,
        sent: false,
        waited: false,
        expired: false,
        deduced: false,
    };

    const STATES: [u8; 9] = [
        tcp::ESTABLISHED,
        tcp::SYN_SENT,
        tcp::SYN_RECV,
        tcp::FIN_WAIT1,
        tcp::FIN_WAIT2,
        tcp::TIME_WAIT,
        tcp::CLOSE_WAIT,
        tcp::LAST_ACK,
        tcp::CLOSING,
    ];
    const ERRORS: [u32; 12] = [
        0,
        ETIMEDOUT,
        ECONNRESET,
        EPIPE,
        ECONNREFUSED,
        ECONNABORTED,
        EHOSTUNREACH,
        ENETUNREACH,
        EACCES,
        EPROTO,
        EBADMSG,
        9999,
    ];
    const RESETS: [Reset; 4] = [Reset::None, Reset::Received, Reset::Either, Reset::Sent];
    const HOLDERS: [Holder; 4] = [Holder::Unknown, Holder::User, Holder::Queue, Holder::Nobody];

    const ABORTS: [Option<Cause>; 3] = [None, Some(Cause::Linger), Some(Cause::DataAfterClose)];

    fn holders_and_aborts() -> impl Iterator<Item = (Holder, Option<Cause>)> {
        HOLDERS
            .into_iter()
            .flat_map(|holder| ABORTS.map(|abort| (holder, abort)))
    }

    /// Every combination, also such that no kernel makes.
    fn each(mut check: impl FnMut(Evidence)) {
        for from in STATES {
            for error in ERRORS {
                for reset in RESETS {
                    for (holder, abort) in holders_and_aborts() {
                        for bits in 0..=u8::MAX {
                            let bit = |at: u8| bits >> at & 1 != 0;
                            check(Evidence {
                                from,
                                error,
                                reset,
                                holder,
                                abort,
                                peer_fin: bit(0),
                                fin_acked: bit(1),
                                soft: bit(2),
                                closing: bit(3),
                                sent: bit(4),
                                expired: bit(5),
                                deduced: bit(6),
                                waited: bit(7),
                            });
                        }
                    }
                }
            }
        }
    }

    /// Each reason needs its proof, whatever else is known.
    #[test]
    fn no_reason_without_its_proof() {
        each(|it| {
            let Ending {
                reason,
                by_error,
                cause,
            } = it.ending();
            let came = matches!(it.reset, Reset::Received | Reset::Either);
            let opening = matches!(it.from, tcp::SYN_SENT | tcp::SYN_RECV);
            let proven = match reason {
                Reason::Normal => it.peer_fin && it.fin_acked,
                Reason::Refused => opening && (came || it.error == ECONNREFUSED),
                Reason::Timeout => {
                    it.error == ETIMEDOUT
                        || it.expired
                        || (it.error == ECONNREFUSED && it.soft && !opening)
                }
                Reason::Unreachable => is_icmp(it.error) && (opening || it.soft),
                Reason::ResetReceived => {
                    came || it.error == EPIPE || (it.error == ECONNRESET && !it.deduced)
                }
                Reason::ResetSent => {
                    it.reset == Reset::Sent
                        || it.error == ECONNABORTED
                        || (it.holder == Holder::User && !it.deduced)
                        || (it.closing && !it.deduced)
                }
                Reason::GaveUp => it.from == tcp::SYN_SENT && it.sent && it.waited && it.error == 0,
                Reason::Canceled => {
                    let opened = it.sent || it.closing;
                    it.from == tcp::SYN_SENT && opened && !it.waited && it.error == 0
                }
                Reason::ListenerClosed => it.holder == Holder::Queue,
                Reason::Unknown => true,
            };
            assert!(proven, "{reason:?} of {it:?}");
            assert!(!by_error || it.error != 0, "{it:?}");
            let is_cause_proven = match cause {
                None => true,
                Some(Cause::Destroyed) => it.error == ECONNABORTED,
                Some(Cause::DataAfterClose) => it.reset == Reset::Sent,
                Some(_) => it.holder == Holder::User && !it.deduced,
            };
            let aborted = cause.is_none() || reason == Reason::ResetSent;
            assert!(is_cause_proven && aborted, "{cause:?} of {it:?}");
            if it.deduced {
                let seen = came || it.reset == Reset::Sent || it.error != 0;
                let known = !matches!(reason, Reason::Unknown | Reason::Normal);
                assert!(seen || !known, "{reason:?} of {it:?}");
            }
        });
    }

    /// The ways in which the kernel ends a socket, what can be seen of each, and why it truly ended.
    fn ways() -> Vec<(&'static str, Evidence, Reason)> {
        let mut ways = Vec::new();
        let mut way = |name, reason, evidence| ways.push((name, evidence, reason));
        let open = [tcp::ESTABLISHED, tcp::CLOSE_WAIT];
        let held = Evidence {
            holder: Holder::User,
            ..NONE
        };
        let orphan = Evidence {
            holder: Holder::Nobody,
            closing: true,
            ..NONE
        };

        for soft in [0, EHOSTUNREACH, ECONNREFUSED] {
            let done = Evidence {
                peer_fin: true,
                fin_acked: true,
                error: soft,
                ..held
            };
            way(
                "last ACK, held",
                Reason::Normal,
                Evidence {
                    from: tcp::LAST_ACK,
                    ..done
                },
            );
            way(
                "time-wait, held",
                Reason::Normal,
                Evidence {
                    from: tcp::FIN_WAIT2,
                    ..done
                },
            );
            way(
                "time-wait, crossed",
                Reason::Normal,
                Evidence {
                    from: tcp::CLOSING,
                    ..done
                },
            );
            let done = Evidence {
                holder: Holder::Nobody,
                closing: true,
                ..done
            };
            way(
                "last ACK",
                Reason::Normal,
                Evidence {
                    from: tcp::LAST_ACK,
                    ..done
                },
            );
            way(
                "time-wait",
                Reason::Normal,
                Evidence {
                    from: tcp::FIN_WAIT2,
                    ..done
                },
            );

            // An error that nobody has read says nothing of an abort.
            let pending = Evidence {
                error: soft,
                ..held
            };
            for from in [
                tcp::ESTABLISHED,
                tcp::CLOSE_WAIT,
                tcp::FIN_WAIT1,
                tcp::FIN_WAIT2,
            ] {
                let peer_fin = from == tcp::CLOSE_WAIT;
                let fin_acked = from == tcp::FIN_WAIT2;
                let it = Evidence {
                    from,
                    peer_fin,
                    fin_acked,
                    ..pending
                };
                let abort = Some(Cause::Disconnect);
                way("disconnected", Reason::ResetSent, Evidence { abort, ..it });
                for abort in [Cause::Linger, Cause::UnreadData] {
                    way(
                        "closed, aborted",
                        Reason::ResetSent,
                        Evidence {
                            closing: true,
                            abort: Some(abort),
                            ..it
                        },
                    );
                }
            }
        }
        way(
            "disconnected",
            Reason::ResetSent,
            Evidence {
                from: tcp::SYN_RECV,
                ..held
            },
        );
        for from in open {
            let queued = Evidence {
                from,
                holder: Holder::Queue,
                ..NONE
            };
            way("listener closed", Reason::ListenerClosed, queued);
            let reset = Reset::Received;
            let error = if from == tcp::CLOSE_WAIT {
                EPIPE
            } else {
                ECONNRESET
            };
            way(
                "RST",
                Reason::ResetReceived,
                Evidence {
                    from,
                    reset,
                    error,
                    ..held
                },
            );
            way(
                "RST in the queue",
                Reason::ResetReceived,
                Evidence {
                    reset,
                    error,
                    ..queued
                },
            );
            let reset = Reset::Sent;
            let error = ETIMEDOUT;
            way(
                "keepalive",
                Reason::Timeout,
                Evidence {
                    from,
                    reset,
                    error,
                    ..held
                },
            );
            let error = ECONNABORTED;
            way(
                "ss -K",
                Reason::ResetSent,
                Evidence {
                    from,
                    reset,
                    error,
                    ..held
                },
            );
            for (error, reason) in [
                (ETIMEDOUT, Reason::Timeout),
                (ECONNREFUSED, Reason::Timeout),
                (EHOSTUNREACH, Reason::Unreachable),
                (EACCES, Reason::Unreachable),
            ] {
                let soft = error != ETIMEDOUT;
                way(
                    "no answer",
                    reason,
                    Evidence {
                        from,
                        error,
                        soft,
                        ..held
                    },
                );
            }
        }
        let queued = Evidence {
            from: tcp::SYN_RECV,
            holder: Holder::Queue,
            ..NONE
        };
        way("listener closed, Fast Open", Reason::ListenerClosed, queued);
        for from in [tcp::FIN_WAIT1, tcp::FIN_WAIT2] {
            let late = Evidence {
                from,
                reset: Reset::Either,
                error: ECONNRESET,
                ..orphan
            };
            way("RST or data after close", Reason::ResetReceived, late);
            way("linger2", Reason::Unknown, Evidence { from, ..orphan });
        }
        for from in [tcp::FIN_WAIT1, tcp::LAST_ACK, tcp::CLOSING] {
            let peer_fin = from != tcp::FIN_WAIT1;
            let it = Evidence {
                from,
                peer_fin,
                ..orphan
            };
            way(
                "no answer to FIN",
                Reason::Timeout,
                Evidence {
                    error: ETIMEDOUT,
                    ..it
                },
            );
            let soft = Evidence {
                error: EHOSTUNREACH,
                soft: true,
                ..it
            };
            way("no way for FIN", Reason::Unreachable, soft);
            way(
                "too many orphans",
                Reason::ResetSent,
                Evidence {
                    reset: Reset::Sent,
                    ..it
                },
            );
            way("too many orphans, silently", Reason::Unknown, it);
        }
        let moved = Evidence {
            from: tcp::FIN_WAIT2,
            fin_acked: true,
            ..orphan
        };
        way(
            "no FIN in time",
            Reason::Timeout,
            Evidence {
                expired: true,
                ..moved
            },
        );
        way("time-wait destroyed", Reason::Unknown, moved);
        way(
            "data in time-wait",
            Reason::ResetSent,
            Evidence {
                abort: Some(Cause::DataAfterClose),
                reset: Reset::Sent,
                ..moved
            },
        );

        let calling = Evidence {
            from: tcp::SYN_SENT,
            sent: true,
            ..held
        };
        let reset = Reset::Received;
        let refused = Evidence {
            reset,
            error: ECONNREFUSED,
            ..calling
        };
        way("RST to SYN", Reason::Refused, refused);
        for (error, reason) in [
            (ECONNREFUSED, Reason::Refused),
            (ETIMEDOUT, Reason::Timeout),
            (EHOSTUNREACH, Reason::Unreachable),
            (EACCES, Reason::Unreachable),
            (9999, Reason::Unknown),
        ] {
            way("SYN failed", reason, Evidence { error, ..calling });
        }
        way(
            "closed in SYN_SENT",
            Reason::Canceled,
            Evidence {
                closing: true,
                ..calling
            },
        );
        way("disconnected in SYN_SENT", Reason::Canceled, calling);
        let waited = Evidence {
            waited: true,
            ..calling
        };
        way(
            "closed in SYN_SENT, later",
            Reason::GaveUp,
            Evidence {
                closing: true,
                ..waited
            },
        );
        way("disconnected in SYN_SENT, later", Reason::GaveUp, waited);
        way(
            "no port",
            Reason::Unknown,
            Evidence {
                sent: false,
                ..calling
            },
        );
        ways
    }

    /// With all evidence the reason is the true one; where hooks or members of the kernel are missing,
    /// it is that or unknown.
    #[test]
    fn the_true_reason_or_none() {
        for (name, whole, truth) in ways() {
            assert_eq!(whole.ending().reason, truth, "{name}: {whole:?}");
            let cause = match name {
                "ss -K" => Some(Cause::Destroyed),
                _ => whole.abort,
            };
            assert_eq!(whole.ending().cause, cause, "{name}: {whole:?}");
            for missing in 1..32_u8 {
                let lacks = |at: u8| missing >> at & 1 != 0;
                let mut part = whole;
                if lacks(0) {
                    part.reset = Reset::None;
                }
                if lacks(1) {
                    // They are read together.
                    part.holder = Holder::Unknown;
                    part.abort = None;
                    part.soft = false;
                    part.peer_fin &= part.from != tcp::FIN_WAIT2;
                    part.fin_acked &= matches!(part.from, tcp::FIN_WAIT2);
                }
                if lacks(2) {
                    part.expired = false;
                }
                part.sent &= !lacks(3);
                if lacks(4) {
                    part.deduced = true;
                }
                let ending = part.ending();
                assert!(
                    ending.cause.is_none() || ending.cause == cause,
                    "{name}: {ending:?} of {part:?}"
                );
                let told = ending.reason;
                assert!(
                    told == truth || told == Reason::Unknown,
                    "{name}: {told:?} in place of {truth:?}: {part:?}"
                );
            }
        }
    }
}
