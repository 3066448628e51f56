//! What a process is doing, as far as `/proc` tells: in which system call its threads wait.

use std::{collections::BTreeMap, fs, path::Path};

/// Threads looked at, at most.
const THREADS: usize = 64;

/// What the threads of a process are doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doing {
    /// A signal or a tracer has stopped it
    pub stopped: bool,
    /// Threads by the system call, or the kernel function, that they wait in; the most first
    pub waits: Vec<(String, usize)>,
    /// Threads that run
    pub running: usize,
}

impl Doing {
    /// Looks at the threads of a process; nothing if it may not be looked at.
    pub fn look(pid: u32) -> Self {
        let mut doing = Self::default();
        let mut waits: BTreeMap<String, usize> = BTreeMap::new();
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        for task in tasks.into_iter().flatten().flatten().take(THREADS) {
            let folder = task.path();
            match state(&folder) {
                Some('T' | 't') => doing.stopped = true,
                Some('R') => doing.running += 1,
                Some('S' | 'D' | 'I') => {
                    if let Some(name) = waits_in(&folder) {
                        *waits.entry(name).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        doing.waits = waits.into_iter().collect();
        doing
            .waits
            .sort_by_key(|(_, threads)| std::cmp::Reverse(*threads));
        doing
    }

    /// In words that follow "it"; nothing if nothing is known.
    pub fn words(&self) -> Option<String> {
        const NAMED: usize = 2;
        if self.stopped {
            return Some("is stopped by a signal".to_owned());
        }
        let several =
            self.running + self.waits.iter().map(|(_, threads)| threads).sum::<usize>() > 1;
        let mut parts: Vec<String> = self
            .waits
            .iter()
            .take(NAMED)
            .map(|(name, threads)| match (several, threads) {
                (false, _) => name.clone(),
                (true, 1) => format!("{name} (1 thread)"),
                (true, threads) => format!("{name} ({threads} threads)"),
            })
            .collect();
        if self.running > 0 {
            if parts.is_empty() {
                return Some("is running".to_owned());
            }
            parts.push(format!("{} running", self.running));
        }
        (!parts.is_empty()).then(|| format!("is in {}", parts.join(", ")))
    }
}

/// Third field of `stat`, behind a name that may hold anything.
fn state(folder: &Path) -> Option<char> {
    let stat = fs::read(folder.join("stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(name_end + 2).map(|byte| char::from(*byte))
}

fn waits_in(folder: &Path) -> Option<String> {
    let number = fs::read_to_string(folder.join("syscall")).ok();
    let number = number.and_then(|text| text.split_whitespace().next()?.parse().ok());
    if let Some(name) = number.and_then(call) {
        return Some(name.to_owned());
    }
    let function = fs::read_to_string(folder.join("wchan")).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let known = !function.is_empty() && function != "0" && function.chars().all(plain);
    known.then_some(function)
}

/// The system calls that servers wait in, by their numbers in `asm/unistd.h`.
fn call(number: u32) -> Option<&'static str> {
    let calls: &[(u32, &'static str)] = if cfg!(target_arch = "x86_64") {
        &[
            (0, "read"),
            (1, "write"),
            (7, "poll"),
            (23, "select"),
            (35, "nanosleep"),
            (43, "accept"),
            (44, "sendto"),
            (45, "recvfrom"),
            (46, "sendmsg"),
            (47, "recvmsg"),
            (61, "wait4"),
            (72, "fcntl"),
            (73, "flock"),
            (74, "fsync"),
            (75, "fdatasync"),
            (128, "rt_sigtimedwait"),
            (130, "rt_sigsuspend"),
            (202, "futex"),
            (230, "clock_nanosleep"),
            (232, "epoll_wait"),
            (247, "waitid"),
            (270, "pselect6"),
            (271, "ppoll"),
            (281, "epoll_pwait"),
            (288, "accept4"),
            (426, "io_uring_enter"),
            (441, "epoll_pwait2"),
        ]
    } else if cfg!(target_arch = "aarch64") {
        &[
            (22, "epoll_pwait"),
            (25, "fcntl"),
            (32, "flock"),
            (63, "read"),
            (64, "write"),
            (72, "pselect6"),
            (73, "ppoll"),
            (82, "fsync"),
            (83, "fdatasync"),
            (95, "waitid"),
            (98, "futex"),
            (101, "nanosleep"),
            (115, "clock_nanosleep"),
            (133, "rt_sigsuspend"),
            (137, "rt_sigtimedwait"),
            (202, "accept"),
            (206, "sendto"),
            (207, "recvfrom"),
            (211, "sendmsg"),
            (212, "recvmsg"),
            (242, "accept4"),
            (260, "wait4"),
            (426, "io_uring_enter"),
            (441, "epoll_pwait2"),
        ]
    } else {
        &[]
    };
    let found = calls.iter().find(|(known, _)| *known == number)?;
    Some(found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words() {
        let waits = |waits: &[(&str, usize)]| Doing {
            waits: waits
                .iter()
                .map(|(name, many)| ((*name).to_owned(), *many))
                .collect(),
            ..Doing::default()
        };
        assert_eq!(Doing::default().words(), None);
        assert_eq!(
            waits(&[("epoll_wait", 1)]).words().unwrap(),
            "is in epoll_wait"
        );
        assert_eq!(
            waits(&[("futex", 3), ("epoll_wait", 1), ("read", 1)])
                .words()
                .unwrap(),
            "is in futex (3 threads), epoll_wait (1 thread)"
        );
        let stopped = Doing {
            stopped: true,
            ..Doing::default()
        };
        assert_eq!(stopped.words().unwrap(), "is stopped by a signal");
    }

    #[test]
    fn this_test_runs() {
        let doing = Doing::look(std::process::id());
        assert!(doing.running > 0, "{doing:?}");
    }
}
