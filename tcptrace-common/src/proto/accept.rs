//! Who reports that a connection was accepted.
//!
//! Two sides meet: the accept hook, which may not hold the socket's lock, and whoever sends the steps of the
//! connection. The accept is reported once, after the connection's first record and with or before its last.
//! Each function here is one atomic change of [`Progress`], a word of the socket's record: it takes the
//! present value, and returns the next one and what its caller does.
//!
//! The hook writes the acceptor into the record before it calls [`accepted`]. Whoever calls [`last`] reads
//! the acceptor afterwards.

/// How far the report of the accept is. It only ever moves on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Progress(pub u64);

impl Progress {
    /// No record of the connection has been sent, and nobody has accepted it.
    pub const BEGIN: Self = Self(0);
    /// It was accepted: the next record reports it.
    pub const LEFT: Self = Self(1);
    /// A record has been sent: the accept hook sends a record of its own.
    pub const OPEN: Self = Self(2);
    /// The accept is reported, or the last record is made: the hook reports nothing.
    pub const DONE: Self = Self(3);
}

/// The hook: the connection was accepted. True if the hook makes a record of its own, for which it then
/// asks [`claim`]; `can`: it could, for the record of the socket says whose it is.
#[inline]
pub fn accepted(progress: Progress, can: bool) -> (Progress, bool) {
    match progress {
        Progress::OPEN if can => (progress, true),
        Progress::BEGIN | Progress::OPEN => (Progress::LEFT, false),
        _ => (progress, false),
    }
}

/// The hook: its record has a place in the ring. True if it is sent, false if it is thrown away.
#[inline]
pub fn claim(progress: Progress) -> (Progress, bool) {
    match progress {
        Progress::OPEN => (Progress::DONE, true),
        _ => (progress, false),
    }
}

/// Before a record of steps that is not the last. True if that record reports the accept.
#[inline]
pub fn next(progress: Progress) -> (Progress, bool) {
    match progress {
        Progress::LEFT => (Progress::DONE, true),
        _ => (progress, false),
    }
}

/// After that record. True if the accept was left to the next record meanwhile: the caller reports it at
/// once, by a record of its own.
#[inline]
pub fn sent(progress: Progress) -> (Progress, bool) {
    match progress {
        Progress::BEGIN => (Progress::OPEN, false),
        _ => next(progress),
    }
}

/// Before the last record. True if that record reports the accept, provided that there is an acceptor.
#[inline]
pub fn last(progress: Progress) -> (Progress, bool) {
    (Progress::DONE, !matches!(progress, Progress::DONE))
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    /// What is in the ring, in the order of the places.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Place {
        Steps { accepted: bool },
        Last { accepted: bool, acceptor: bool },
        Accept,
        Thrown,
    }

    #[derive(Clone, Debug)]
    struct World {
        progress: Progress,
        acceptor: bool,
        ring: Vec<Place>,
        hook: u8,
        /// Where the hook's record is
        own: usize,
        sender: u8,
        /// What the sender has found out for its next action
        reports: bool,
        found: bool,
        /// Records that the sender makes before the last
        steps: u8,
    }

    impl World {
        fn change(&mut self, to: impl FnOnce(Progress) -> (Progress, bool)) -> bool {
            let (after, does) = to(self.progress);
            self.progress = after;
            does
        }

        /// One action of the accept hook; false if it has ended.
        fn hook(&mut self) -> bool {
            match self.hook {
                0 => self.acceptor = true,
                1 => {
                    if !self.change(|progress| accepted(progress, true)) {
                        self.hook = u8::MAX;
                        return true;
                    }
                }
                2 => {
                    self.own = self.ring.len();
                    self.ring.push(Place::Thrown);
                }
                3 => {
                    if self.change(claim) {
                        self.ring[self.own] = Place::Accept;
                    }
                }
                _ => return false,
            }
            self.hook += 1;
            true
        }

        /// One action of whoever sends the steps, three for each record; false if it has ended.
        fn sender(&mut self) -> bool {
            let record = self.sender / 3;
            if record > self.steps {
                return false;
            }
            let is_last = record == self.steps;
            match (self.sender % 3, is_last) {
                (0, false) => self.reports = self.change(next),
                (1, false) => self.ring.push(Place::Steps {
                    accepted: self.reports,
                }),
                (_, false) => {
                    if self.change(sent) {
                        self.ring.push(Place::Accept);
                    }
                }
                (0, true) => self.reports = self.change(last),
                (1, true) => self.found = self.acceptor,
                (_, true) => self.ring.push(Place::Last {
                    accepted: self.reports && self.found,
                    acceptor: self.found,
                }),
            }
            self.sender += 1;
            true
        }
    }

    /// Calls `check` with the outcome of each interleaving. Returns how many there are.
    fn interleave(world: &World, check: &mut impl FnMut(&World)) -> usize {
        let mut outcomes = 0;
        for side in [World::hook, World::sender] {
            let mut next = world.clone();
            if side(&mut next) {
                outcomes += interleave(&next, check);
            }
        }
        if outcomes == 0 {
            check(world);
            return 1;
        }
        outcomes
    }

    #[test]
    fn an_accept_is_reported_once_and_in_its_place() {
        for steps in 1..=3 {
            let world = World {
                progress: Progress::BEGIN,
                acceptor: false,
                ring: vec![],
                hook: 0,
                own: 0,
                sender: 0,
                reports: false,
                found: false,
                steps,
            };
            let outcomes = interleave(&world, &mut |world| {
                let ring: Vec<_> = world
                    .ring
                    .iter()
                    .filter(|it| **it != Place::Thrown)
                    .collect();
                let reports = |place: &&&Place| {
                    matches!(
                        place,
                        Place::Accept
                            | Place::Steps { accepted: true }
                            | Place::Last { accepted: true, .. }
                    )
                };
                let number = ring.iter().filter(reports).count();
                let Some(Place::Last { acceptor, .. }) = ring.last() else {
                    panic!("something comes after the last record: {ring:?}");
                };
                assert_eq!(number, usize::from(*acceptor), "{ring:?}");
                assert_ne!(ring[0], &Place::Accept, "{ring:?}");
            });
            assert!(outcomes > 10);
        }
    }
}
