//! What `/proc` says of a process that runs, where the kernel side could not say it: of command lines, it reads
//! only that of the running process.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::process::{Processes, Unsaid};

/// Ticks of `/proc/PID/stat` (`USER_HZ`) are as long, ns.
const TICK_NS: u64 = 10_000_000;
/// Where in `/proc/PID/stat` the start time stands, behind the name.
const START_TIME: usize = 19;

/// Adds what is not known yet of a process, if it is still the same.
pub fn add(processes: &Processes, unsaid: &Unsaid, with_args: bool) {
    let folder = format!("/proc/{}", unsaid.pid());
    let folder = Path::new(&folder);
    let exe = fs::read_link(folder.join("exe"))
        .ok()
        .filter(|_| unsaid.exe)
        .map(|path| path.to_string_lossy().into_owned());
    let args = fs::read(folder.join("cmdline"))
        .ok()
        .filter(|_| unsaid.args && with_args);
    // Last: if it is the same now, it was before.
    let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
    if start_ticks(&stat) == Some(unsaid.start_ns / TICK_NS) {
        processes.add(unsaid, exe, args.as_deref());
    }
}

/// What a process executes and where it runs, for filters of `list`.
#[derive(Debug, Default)]
pub struct Place {
    /// Path of its executable
    pub exe: Option<String>,
    /// Path of its cgroup, in the unified hierarchy or that of systemd
    pub cgroup_path: Option<String>,
    /// Ids of its cgroup and of those above
    pub cgroups: Vec<u64>,
}

/// Reads what `/proc` says of a process.
pub fn place(pid: u32) -> Place {
    let folder = format!("/proc/{pid}");
    let exe = fs::read_link(format!("{folder}/exe"));
    let text = fs::read_to_string(format!("{folder}/cgroup")).unwrap_or_default();
    let path = |controllers: &str| {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.strip_prefix(controllers)?
                .strip_prefix(':')
                .map(str::to_owned)
        })
    };
    let cgroup_path = path("")
        .filter(|path| path != "/")
        .or_else(|| path("name=systemd"));
    let below = cgroup_path
        .as_deref()
        .unwrap_or("/")
        .trim_start_matches('/');
    let full = Path::new("/sys/fs/cgroup").join(below);
    let cgroups = full
        .ancestors()
        .take_while(|folder| folder.starts_with("/sys/fs/cgroup"))
        .filter_map(|folder| fs::metadata(folder).ok())
        .map(|folder| folder.ino())
        .collect();
    Place {
        exe: exe.ok().map(|path| path.to_string_lossy().into_owned()),
        cgroup_path,
        cgroups,
    }
}

/// When a process was started, in ticks since boot.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(START_TIME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_stands_behind_any_name() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(start_ticks(stat), Some(4711));
        assert_eq!(start_ticks("12"), None);
        assert!(start_ticks(&fs::read_to_string("/proc/self/stat").unwrap()).is_some());
    }
}
