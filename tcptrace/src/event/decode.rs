//! Bytes of the ring to events.

use tcptrace_common::record::{
    Counters, DetailRecord, KIND_ACCEPT, KIND_CLOSE, KIND_LISTENER, KIND_OPEN, KIND_OWNER,
    KIND_RESET, KIND_RETRANSMIT, KIND_SLOW, KIND_SOCKET, KIND_STEPS, KIND_TRANSITION,
    ListenerRecord, ORIGINS, Origin, PathRecord, Record,
};
use zerocopy::FromBytes as _;

use super::{
    Accept, Close, Connection, Event, Listener, Open, Owner, Reset, Retransmit, Slow, Socket,
    Transition, path,
};

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

impl Event {
    /// Decodes one record of the ring or of a snapshot, and hands on its events, oldest first, until
    /// `each` returns false. Returns what `each` returned last.
    pub fn decode(bytes: &[u8], mut each: impl FnMut(&Self) -> bool) -> Result<bool, DecodeError> {
        let short = || DecodeError::Short { len: bytes.len() };
        let (record, _rest) = Record::read_from_prefix(bytes).map_err(|_too_short| short())?;
        let head = Connection(record);
        match record.kind {
            KIND_SOCKET => Ok(each(&Self::Socket(Socket(head)))),
            KIND_TRANSITION => Ok(each(&Self::Transition(Transition::in_mid_life(head)))),
            KIND_ACCEPT | KIND_RETRANSMIT | KIND_RESET | KIND_OWNER | KIND_LISTENER | KIND_SLOW
            | KIND_OPEN => {
                let (detail, _rest) =
                    DetailRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let numbers = detail.numbers;
                Ok(each(&match record.kind {
                    KIND_ACCEPT => Self::Accept(Accept { head, numbers }),
                    KIND_RETRANSMIT => Self::Retransmit(Retransmit { head, numbers }),
                    KIND_RESET => Self::Reset(Reset { head, numbers }),
                    KIND_SLOW => Self::Slow(Slow { head, numbers }),
                    KIND_OPEN => Self::Open(Open { head, numbers }),
                    KIND_OWNER => Self::Owner(Owner { head, numbers }),
                    _ => Self::Listener(Listener {
                        head,
                        numbers,
                        // Recordings of earlier versions have none.
                        origins: ListenerRecord::read_from_prefix(bytes)
                            .map_or([Origin::default(); ORIGINS], |(record, _rest)| {
                                record.origins
                            }),
                    }),
                }))
            }
            KIND_STEPS => {
                let (path, _rest) =
                    PathRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                Ok(decode_steps(&path, &mut each))
            }
            KIND_CLOSE => {
                let (path, rest) =
                    PathRecord::read_from_prefix(bytes).map_err(|_too_short| short())?;
                let (counters, _rest) =
                    Counters::read_from_prefix(rest).map_err(|_too_short| short())?;
                Ok(decode_close(&Close::new(path, counters), &mut each))
            }
            kind => Err(DecodeError::Kind(kind)),
        }
    }
}

/// The steps that were deferred until the newest one, that one, and the accept in its place among them.
fn decode_steps(path: &PathRecord, each: &mut impl FnMut(&Event) -> bool) -> bool {
    let mut accept = path::unreported_accept(path);
    if !decode_deferred(path, &mut accept, each) {
        return false;
    }
    let newest = path::newest(path);
    // Where the path says no time of it, it is the latest.
    let at_ns = path::steps(path)
        .last()
        .map_or(u64::MAX, |step| step.mono_ns());
    if let Some(accept) = accept.take_if(|accept| accept.head.mono_ns() < at_ns)
        && !each(&Event::Accept(accept))
    {
        return false;
    }
    each(&Event::Transition(newest)) && accept.is_none_or(|accept| each(&Event::Accept(accept)))
}

/// The same at the end of a connection; the end comes last.
fn decode_close(close: &Close, each: &mut impl FnMut(&Event) -> bool) -> bool {
    let mut accept = path::unreported_accept(&close.path);
    if !decode_deferred(&close.path, &mut accept, each) {
        return false;
    }
    if let Some(accept) = accept
        && !each(&Event::Accept(accept))
    {
        return false;
    }
    // A last transition that nobody saw is counted as lost.
    if !close.is_deduced() {
        let last = Transition {
            head: close.head,
            close: Some(*close),
        };
        if !each(&Event::Transition(last)) {
            return false;
        }
    }
    each(&Event::Close(*close))
}

/// The steps that were deferred until the newest one, and the accept in its place among them.
fn decode_deferred(
    path: &PathRecord,
    accept: &mut Option<Accept>,
    each: &mut impl FnMut(&Event) -> bool,
) -> bool {
    let steps = path::steps(path);
    let newest = steps.len().saturating_sub(1);
    let deferred = steps.iter().enumerate().take(newest);
    for (index, step) in deferred.skip(path.untold.into()) {
        let at_ns = step.mono_ns();
        // A step without a time is a state it was found in, not a change.
        if at_ns == 0 {
            continue;
        }
        if let Some(accept) = accept.take_if(|accept| accept.head.mono_ns() < at_ns)
            && !each(&Event::Accept(accept))
        {
            return false;
        }
        if !each(&Event::Transition(path::deferred(path, index))) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests;
