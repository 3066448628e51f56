//! The processes that own connections: what they execute, who started them, where they run.
//!
//! The kernel side says what a process is when it first comes to own a connection, so that also one that is
//! gone by then is known. What is kept is bounded: those that nothing has been said of for longest are
//! forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tcptrace_common::record::{PROCESS_PATH_MAX, ProcessRecord};
use zerocopy::FromBytes as _;

use super::cgroup;

/// Processes of one generation; two are kept.
const GENERATION: usize = 32_768;

/// What a process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Path of its executable
    pub exe: Option<String>,
    /// Its command line
    pub args: Option<String>,
    /// Its parent
    pub ppid: Option<u32>,
    /// What its cgroup's path names
    pub names: cgroup::Names,
}

/// Which process: its id, and which of those that had it.
type Key = (u32, u32);

#[derive(Debug, Default)]
struct Table {
    young: HashMap<Key, Arc<Process>>,
    old: HashMap<Key, Arc<Process>>,
}

impl Table {
    fn insert(&mut self, key: Key, process: Arc<Process>) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, process);
    }

    fn get(&mut self, key: Key) -> Option<Arc<Process>> {
        if let Some(process) = self.young.get(&key) {
            return Some(Arc::clone(process));
        }
        let process = self.old.remove(&key)?;
        self.insert(key, Arc::clone(&process));
        Some(process)
    }
}

/// The processes that are known, for all who print them.
#[derive(Clone, Debug, Default)]
pub struct Processes(Arc<Mutex<Table>>);

impl Processes {
    /// Takes a record of the ring. Returns what could not be said there of a process that runs; none of bytes
    /// that are no such record.
    pub fn learn(&self, bytes: &[u8]) -> Option<Unsaid> {
        let (record, rest) = ProcessRecord::read_from_prefix(bytes).ok()?;
        let tail = |bytes: &[u8; PROCESS_PATH_MAX], at: u16| {
            let path = bytes
                .get(usize::from(at)..)
                .filter(|path| !path.is_empty())?;
            Some(String::from_utf8_lossy(path).into_owned())
        };
        let process = Process {
            exe: tail(&record.exe, record.exe_at),
            args: rest.get(..record.args_len.into()).and_then(command_line),
            ppid: (record.ppid != 0).then_some(record.ppid),
            names: cgroup::Names::of_path(
                &tail(&record.cgroup, record.cgroup_at).unwrap_or_default(),
            ),
        };
        let key = (record.head.owner.tgid, record.head.process);
        let unsaid = Unsaid {
            key,
            start_ns: record.start_ns,
            exe: process.exe.is_none(),
            args: process.args.is_none(),
        };
        self.table().insert(key, Arc::new(process));
        Some(unsaid)
    }

    /// Adds what was found out elsewhere.
    pub fn add(&self, unsaid: &Unsaid, exe: Option<String>, args: Option<&[u8]>) {
        let mut table = self.table();
        let Some(known) = table.get(unsaid.key) else {
            return;
        };
        let mut process = (*known).clone();
        process.exe = process.exe.or(exe);
        process.args = process.args.or(args.and_then(command_line));
        table.insert(unsaid.key, Arc::new(process));
    }

    /// What is known of a process.
    pub fn get(&self, pid: u32, which: u32) -> Option<Arc<Process>> {
        self.table().get((pid, which))
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel side could not say of a process.
#[derive(Clone, Copy, Debug)]
pub struct Unsaid {
    key: Key,
    /// When it was started (`CLOCK_BOOTTIME`, ns)
    pub start_ns: u64,
    /// Its executable
    pub exe: bool,
    /// Its command line
    pub args: bool,
}

impl Unsaid {
    /// Its id.
    pub const fn pid(&self) -> u32 {
        self.key.0
    }
}

/// The arguments, which end with a zero each, as one would type them apart from quotes.
fn command_line(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().rposition(|byte| *byte != 0)?;
    let text = String::from_utf8_lossy(bytes.get(..=end)?);
    Some(text.replace('\0', " "))
}

#[cfg(test)]
mod tests {
    use tcptrace_common::record::{KIND_PROCESS, Owner, Record};
    use zerocopy::IntoBytes as _;

    use super::*;

    fn record(tgid: u32, exe: &[u8]) -> ProcessRecord {
        let mut record = ProcessRecord {
            head: Record {
                kind: KIND_PROCESS,
                process: 7,
                owner: Owner {
                    tgid,
                    ..Owner::NONE
                },
                ..Record::EMPTY
            },
            start_ns: 5,
            ppid: 1,
            exe_at: u16::try_from(PROCESS_PATH_MAX - exe.len()).unwrap(),
            cgroup_at: 500,
            args_len: 0,
            reserved: [0; 3],
            exe: [0; PROCESS_PATH_MAX],
            cgroup: [0; PROCESS_PATH_MAX],
        };
        record.exe[PROCESS_PATH_MAX - exe.len()..].copy_from_slice(exe);
        record.cgroup[500..].copy_from_slice(b"/a/b.service");
        record
    }

    #[test]
    fn a_process_is_known_by_its_record() {
        let processes = Processes::default();
        let mut bytes = record(10, b"/usr/bin/curl").as_bytes().to_vec();
        let args = b"curl\0-s\0http://a b/\0";
        bytes.extend(args);
        let unsaid = processes.learn(&bytes).unwrap();
        assert!(unsaid.args && !unsaid.exe);
        processes.add(&unsaid, None, Some(args));
        let known = processes.get(10, 7).unwrap();
        assert_eq!(known.exe.as_deref(), Some("/usr/bin/curl"));
        assert_eq!(known.args.as_deref(), Some("curl -s http://a b/"));
        assert_eq!(known.ppid, Some(1));
        assert_eq!(known.names.unit.as_deref(), Some("b.service"));
        assert_eq!(processes.get(10, 8), None);
        assert!(processes.learn(&bytes[..100]).is_none());
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let processes = Processes::default();
        let many = 3 * u32::try_from(GENERATION).unwrap();
        for tgid in 1..=many {
            processes.learn(record(tgid, b"/x").as_bytes()).unwrap();
            // Whoever is asked for stays.
            assert!(processes.get(1, 7).is_some());
        }
        assert!(processes.get(2, 7).is_none());
        assert!(processes.get(many, 7).is_some());
        let table = processes.table();
        assert!(table.young.len() + table.old.len() <= 2 * GENERATION);
    }
}
