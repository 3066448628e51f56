//! Which process has which socket open.

use std::ops::Range;

use super::dump::Found;

/// A process that has sockets open.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its id
    pub pid: u32,
    /// Real user id
    pub uid: Option<u32>,
    /// When it started, on a clock of its own: earlier is less
    pub start: u64,
    /// Name of its first thread, NUL-padded
    pub comm: [u8; 16],
}

impl Process {
    /// Its name.
    pub fn comm(&self) -> &[u8] {
        let len = self.comm.iter().position(|byte| *byte == 0);
        &self.comm[..len.unwrap_or(self.comm.len())]
    }
}

/// A descriptor of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Place of the socket
    pub socket: u32,
    /// Place of the process
    pub process: u32,
    /// The descriptor
    pub fd: u32,
}

/// Who holds what; filled process by process, then put in order.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Processes that hold one of the sockets
    pub processes: Vec<Process>,
    all: Vec<Holding>,
    /// Where the holdings of each socket begin
    begins: Vec<u32>,
}

impl Holdings {
    /// Notes a descriptor; `process` is asked for once for all descriptors of a process, as long as they come
    /// one after the other.
    pub fn add(&mut self, socket: u32, pid: u32, fd: u32, process: impl FnOnce() -> Process) {
        if self.processes.last().is_none_or(|last| last.pid != pid) {
            self.processes.push(process());
        }
        let place = u32::try_from(self.processes.len().saturating_sub(1)).unwrap_or(u32::MAX);
        self.all.push(Holding {
            socket,
            process: place,
            fd,
        });
    }

    /// Puts them in the order of sockets; of one socket the process that started first comes first.
    pub fn sort(&mut self, found: &Found) {
        let processes = &self.processes;
        let rank = |holding: &Holding| {
            let process = usize::try_from(holding.process).ok();
            let process = process.and_then(|place| processes.get(place));
            process.map(|process| (process.start, process.pid))
        };
        self.all.sort_unstable_by(|one, other| {
            let by_socket = one.socket.cmp(&other.socket);
            by_socket
                .then_with(|| rank(one).cmp(&rank(other)))
                .then_with(|| one.fd.cmp(&other.fd))
        });
        // A thread with descriptors of its own may show the same ones.
        self.all.dedup();
        self.begins.clear();
        self.begins.reserve_exact(found.sockets.len() + 1);
        let mut at = 0;
        for place in 0..=found.sockets.len() {
            while self
                .all
                .get(at)
                .is_some_and(|holding| (holding.socket as usize) < place)
            {
                at += 1;
            }
            self.begins.push(u32::try_from(at).unwrap_or(u32::MAX));
        }
    }

    /// Puts the descriptors of one process before those of the others that have the socket open.
    pub fn put_first(&mut self, place: u32, pid: u32) {
        let Some(range) = self.range(place) else {
            return;
        };
        let Self { processes, all, .. } = self;
        let is_its = |holding: &Holding| {
            let process = usize::try_from(holding.process).ok();
            process
                .and_then(|place| processes.get(place))
                .is_some_and(|process| process.pid == pid)
        };
        if let Some(held) = all.get_mut(range) {
            // Stable: the others stay in their order.
            held.sort_by_key(|holding| !is_its(holding));
        }
    }

    /// The descriptors of a socket, process by process, the owner's first.
    pub fn of(&self, place: u32) -> &[Holding] {
        let range = self.range(place);
        range
            .and_then(|range| self.all.get(range))
            .unwrap_or_default()
    }

    fn range(&self, place: u32) -> Option<Range<usize>> {
        let at = |place: u32| {
            let begin = self.begins.get(usize::try_from(place).ok()?)?;
            usize::try_from(*begin).ok()
        };
        Some(at(place)?..at(place.checked_add(1)?)?)
    }

    /// The process of a holding.
    pub fn process(&self, holding: Holding) -> Option<&Process> {
        self.processes.get(usize::try_from(holding.process).ok()?)
    }
}
