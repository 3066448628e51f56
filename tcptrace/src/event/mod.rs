//! What a record of the ring means. Pure: bytes in, values out.

mod connection;
mod ending;
mod state;
mod totals;

pub use connection::{Connection, Numbers};
pub use ending::ETIMEDOUT;
pub use state::State;
use tcptrace_common::record::{
    Counters, KIND_ACCEPT, KIND_CLOSE, KIND_LISTENER, KIND_RESET, KIND_RETRANSMIT, KIND_SOCKET,
    KIND_STEPS, KIND_TRANSITION, NotedRecord, PathRecord, Record, UNKNOWN,
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
                    if let Some(accepted) = accept.take_if(|accept| accept.mono_ns() < at_ns)
                        && !each(&Self::Accept(accepted, Numbers([UNKNOWN; 6])))
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
                Ok(if record.kind == KIND_CLOSE {
                    each(&Self::Close(connection, totals))
                } else {
                    each(&Self::Transition(connection))
                })
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
