//! What a record of the ring means. Pure: bytes in, values out.

mod connection;
mod ending;
mod role;
mod state;
mod totals;

pub use connection::{Connection, Numbers};
pub use ending::ETIMEDOUT;
pub use role::Role;
pub use state::State;
use tcptrace_common::record::{
    Counters, KIND_ACCEPT, KIND_CLOSE, KIND_LISTENER, KIND_RESET, KIND_RETRANSMIT, KIND_SOCKET,
    KIND_STEPS, KIND_TRANSITION, NotedRecord, PathRecord, Record,
};
pub use totals::Totals;
use zerocopy::FromBytes as _;

/// Why a record could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// Fewer bytes than its kind needs.
    #[error("record of {len} bytes is too short")]
    Short {
        /// Bytes it has
        len: usize,
    },
    /// A kind that this version does not know.
    #[error("unknown record kind {0}")]
    Kind(u8),
}

/// One record, decoded.
#[expect(
    clippy::large_enum_variant,
    reason = "one is alive at a time, on the stack"
)]
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A connection open at start
    Socket(Connection),
    /// A state change
    Transition(Connection),
    /// `accept()` returned the connection
    Accept(Connection, Numbers),
    /// A segment was sent again
    Retransmit(Connection, Numbers),
    /// RST sent or received
    Reset(Connection, Numbers),
    /// What goes wrong at a listener
    Listener(Connection, Numbers),
    /// The last state change and the totals
    Close(Connection, Totals),
}

impl Event {
    /// Decodes one record of the ring or of a snapshot, and hands on what it tells of, oldest
    /// first, until `each` returns false. Returns what `each` returned last.
    pub fn decode(bytes: &[u8], mut each: impl FnMut(&Self) -> bool) -> Result<bool, DecodeError> {
        let short = || DecodeError::Short { len: bytes.len() };
        let (record, _rest) = Record::read_from_prefix(bytes).map_err(|_too_short| short())?;
        let connection = Connection(record);
        match record.kind {
            KIND_SOCKET => Ok(each(&Self::Socket(connection))),
            KIND_TRANSITION => Ok(each(&Self::Transition(connection))),
            KIND_ACCEPT | KIND_RETRANSMIT | KIND_RESET | KIND_LISTENER => {
                let (noted, _rest) =
                    NotedRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let numbers = Numbers(noted.numbers);
                Ok(each(&match record.kind {
                    KIND_ACCEPT => Self::Accept(connection, numbers),
                    KIND_RETRANSMIT => Self::Retransmit(connection, numbers),
                    KIND_RESET => Self::Reset(connection, numbers),
                    _ => Self::Listener(connection, numbers),
                }))
            }
            KIND_CLOSE | KIND_STEPS => {
                let (path, rest) =
                    PathRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let counters = if record.kind == KIND_CLOSE {
                    Counters::read_from_prefix(rest)
                        .map_err(|_too_short| short())?
                        .0
                } else {
                    Counters::NONE
                };
                let totals = Totals::new(path, counters);
                let last = totals.path().len().saturating_sub(1);
                // A step without a time is a state it was found in, not a change.
                let changes = (usize::from(path.untold)..last)
                    .filter(|index| totals.path()[*index].mono_ns() != 0);
                let mut accept = totals.untold_accept();
                for index in changes.chain(std::iter::once(last)) {
                    let at_ns = totals
                        .path()
                        .get(index)
                        .map_or(u64::MAX, |step| step.mono_ns());
                    // The totals are a connection's last word.
                    let ends = index == last && record.kind == KIND_CLOSE;
                    if let Some((accepted, numbers)) =
                        accept.take_if(|(accept, _)| ends || accept.mono_ns() < at_ns)
                        && !each(&Self::Accept(accepted, numbers))
                    {
                        return Ok(false);
                    }
                    if index == last {
                        break;
                    }
                    if !each(&Self::Transition(totals.waited(index))) {
                        return Ok(false);
                    }
                }
                let more = each(&if record.kind == KIND_CLOSE {
                    Self::Close(connection, totals)
                } else {
                    Self::Transition(totals.newest())
                });
                Ok(more
                    && accept
                        .is_none_or(|(accepted, numbers)| each(&Self::Accept(accepted, numbers))))
            }
            kind => Err(DecodeError::Kind(kind)),
        }
    }

    /// What it says of the connection.
    pub const fn connection(&self) -> &Connection {
        match self {
            Self::Socket(connection)
            | Self::Transition(connection)
            | Self::Accept(connection, _)
            | Self::Retransmit(connection, _)
            | Self::Reset(connection, _)
            | Self::Listener(connection, _)
            | Self::Close(connection, _) => connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use tcptrace_common::{
        record::{
            CloseRecord, FLAG_DEDUCED, Owner, RESET_EITHER, RESET_RECEIVED, ROLE_CLIENT,
            ROLE_SERVER, SOURCE_ACCEPT, SOURCE_LISTENER, Step,
        },
        tcp,
    };
    use zerocopy::IntoBytes as _;

    use super::*;

    const LISTENER: u32 = 10;
    const ACCEPTOR: u32 = 11;

    /// A server's connection of which all steps but those before `untold` are told at once.
    fn held(untold: u8, steps: &[(u64, u8)], accept_ns: u64) -> PathRecord {
        let mut record = PathRecord::default();
        for (place, (at_ns, state)) in record.path.iter_mut().zip(steps) {
            *place = Step::new(*at_ns, *state);
        }
        let (last_ns, last) = steps[steps.len() - 1];
        let (_, before) = steps[steps.len() - 2];
        record.head = Record {
            kind: KIND_STEPS,
            mono_ns: last_ns,
            old: before,
            new: last,
            role: ROLE_SERVER,
            source: SOURCE_ACCEPT,
            ..Record::default()
        };
        record.head.owner.tgid = ACCEPTOR;
        record.path_len = u8::try_from(steps.len()).unwrap();
        record.untold = untold;
        record.accept_ns = accept_ns;
        record.accepted = 1;
        record.backlog = [3, 128];
        record.has_opener = 1;
        record.opener = Owner {
            tgid: LISTENER,
            ..Owner::NONE
        };
        record.opener_source = SOURCE_LISTENER;
        record
    }

    /// What is told: the state entered or `accept`, the owner, and how that is known.
    fn told(record: &PathRecord) -> Vec<(&'static str, Option<u32>, &'static str)> {
        let mut told = Vec::new();
        Event::decode(record.as_bytes(), |event| {
            let connection = event.connection();
            let what = match event {
                Event::Accept(_, numbers) => {
                    assert_eq!(numbers.backlog(), Some(3));
                    assert_eq!(numbers.backlog_max(), Some(128));
                    assert_eq!(connection.peer_pid(), Some(LISTENER));
                    assert_eq!(connection.span_us(), Some(5));
                    "accept"
                }
                _ => connection.newstate().name(),
            };
            told.push((what, connection.pid(), connection.pid_source()));
            true
        })
        .unwrap();
        told
    }

    #[test]
    fn steps_before_the_accept_are_the_listeners() {
        let record = held(
            0,
            &[
                (1_000, tcp::SYN_RECV),
                (2_000, tcp::ESTABLISHED),
                (9_000, tcp::CLOSE_WAIT),
            ],
            7_000,
        );
        assert_eq!(
            told(&record),
            [
                ("SYN_RECV", Some(LISTENER), "listener"),
                ("ESTABLISHED", Some(LISTENER), "listener"),
                ("accept", Some(ACCEPTOR), "accept"),
                ("CLOSE_WAIT", Some(ACCEPTOR), "accept"),
            ]
        );
    }

    #[test]
    fn an_accept_after_the_last_step_comes_after_it() {
        let record = held(
            1,
            &[(1_000, tcp::SYN_RECV), (2_000, tcp::ESTABLISHED)],
            7_000,
        );
        assert_eq!(
            told(&record),
            [
                ("ESTABLISHED", Some(LISTENER), "listener"),
                ("accept", Some(ACCEPTOR), "accept"),
            ]
        );
    }

    #[test]
    fn the_totals_are_the_last_word() {
        let mut record = CloseRecord {
            path: held(
                1,
                &[
                    (1_000, tcp::SYN_RECV),
                    (2_000, tcp::ESTABLISHED),
                    (6_000, tcp::CLOSE),
                ],
                7_000,
            ),
            ..CloseRecord::default()
        };
        record.path.head.kind = KIND_CLOSE;
        let mut kinds = Vec::new();
        Event::decode(record.as_bytes(), |event| {
            kinds.push(matches!(event, Event::Close(..)));
            true
        })
        .unwrap();
        assert_eq!(kinds, [false, false, true]);
    }

    /// The totals of a client's connection with these steps.
    fn totals(steps: &[(u64, u8)], change: impl FnOnce(&mut CloseRecord)) -> Totals {
        let mut record = CloseRecord {
            path: held(0, steps, 0),
            ..CloseRecord::default()
        };
        record.path.head.kind = KIND_CLOSE;
        record.path.head.role = ROLE_CLIENT;
        record.path.accepted = 0;
        change(&mut record);
        let mut totals = None;
        Event::decode(record.as_bytes(), |event| {
            if let Event::Close(_, told) = event {
                totals = Some(*told);
            }
            true
        })
        .unwrap();
        totals.unwrap()
    }

    /// A step that was hidden left a state without a time.
    #[test]
    fn a_time_that_is_not_known_is_left_out() {
        let steps = [
            (1_000_000, tcp::SYN_SENT),
            (0, tcp::ESTABLISHED),
            (9_000_000, tcp::FIN_WAIT1),
            (9_500_000, tcp::CLOSE),
        ];
        let hidden = totals(&steps, |_| ());
        assert_eq!(hidden.connect_us(), None);
        let states: Vec<_> = hidden
            .states()
            .map(|(state, us)| (state.name(), us))
            .collect();
        assert_eq!(states, [("FIN_WAIT1", 500)]);
        assert_eq!(hidden.duration_us(), Some(8_500));

        let timed = totals(&steps, |record| {
            record.path.path[1] = Step::new(3_000_000, tcp::ESTABLISHED);
        });
        assert_eq!(timed.connect_us(), Some(2_000));
    }

    /// Since it was queued, which with Fast Open is before it is established.
    #[test]
    fn the_accept_queue() {
        let wait_us = |queued_ns, established_ns, accept_ns| {
            let steps = [
                (queued_ns, tcp::SYN_RECV),
                (established_ns, tcp::ESTABLISHED),
                (9_500_000, tcp::CLOSE),
            ];
            totals(&steps, |record| record.path.accept_ns = accept_ns).accept_wait_us()
        };
        assert_eq!(wait_us(1_000_000, 2_000_000, 5_000_000), Some(3_000));
        assert_eq!(wait_us(1_000_000, 6_000_000, 5_000_000), Some(4_000));
        assert_eq!(wait_us(0, 6_000_000, 5_000_000), None);
        assert_eq!(wait_us(1_000_000, 0, 5_000_000), None);
        assert_eq!(wait_us(1_000_000, 2_000_000, 0), None);
    }

    /// After our `close()` data are answered with an RST as if one had come.
    #[test]
    fn a_reset_after_our_close_may_have_been_data() {
        let told = |from, reset, shutdown| {
            let steps = [
                (1_000_000, tcp::SYN_SENT),
                (2_000_000, tcp::ESTABLISHED),
                (3_000_000, from),
                (9_000_000, tcp::CLOSE),
            ];
            let totals = totals(&steps, |record| {
                record.path.head.old = from;
                record.path.head.new = tcp::CLOSE;
                record.path.err = 104;
                record.path.shutdown = shutdown;
                record.counters.reset = reset;
            });
            let reason = totals.reason();
            assert_eq!(reason, "reset_received");
            (
                totals.is_reason_inferred(reason),
                totals.closed_by(reason).unwrap(),
            )
        };
        for from in [tcp::FIN_WAIT1, tcp::FIN_WAIT2] {
            assert_eq!(told(from, RESET_EITHER, 3), (true, "local"));
            assert_eq!(told(from, 0, 3), (true, "local"));
            assert_eq!(told(from, RESET_RECEIVED, 3), (false, "remote"));
            // `shutdown()` of our side alone: whatever comes is read.
            assert_eq!(told(from, RESET_RECEIVED, 2), (false, "remote"));
        }
        assert_eq!(told(tcp::ESTABLISHED, RESET_RECEIVED, 0), (false, "remote"));
    }

    /// Neither why nor when, if nobody saw it end.
    #[test]
    fn a_deduced_end_claims_nothing() {
        for last in [
            tcp::SYN_SENT,
            tcp::FIN_WAIT2,
            tcp::LAST_ACK,
            tcp::ESTABLISHED,
        ] {
            let steps = [(1_000_000, tcp::SYN_SENT), (2_000_000, last)];
            let deduced = totals(&steps, |record| {
                record.path.head.flags |= FLAG_DEDUCED;
                record.path.head.old = last;
                record.path.head.new = tcp::CLOSE;
                record.path.shutdown = 3;
            });
            assert_eq!(deduced.reason(), "unknown");
            assert_eq!(deduced.duration_us(), None);
            assert!(deduced.states().all(|(_, us)| us == 1_000));
        }
    }

    /// A child of a listener that was closing began in `CLOSE`.
    #[test]
    fn a_first_step_comes_from_where_it_was() {
        let mut record = held(
            0,
            &[(1_000, tcp::SYN_RECV), (2_000, tcp::ESTABLISHED)],
            7_000,
        );
        record.accepted = 0;
        for (origin, told) in [
            (tcp::CLOSE, tcp::CLOSE),
            (tcp::LISTEN, tcp::LISTEN),
            (0, tcp::LISTEN),
        ] {
            record.origin = origin;
            let mut first = None;
            Event::decode(record.as_bytes(), |event| {
                first.get_or_insert(event.connection().oldstate().0);
                true
            })
            .unwrap();
            assert_eq!(first, Some(told));
        }
    }
}
