//! What `/proc` tells of a process: processor time, memory, and what it keeps of BPF.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// On-CPU time of all threads that live, ns: finer than the clock ticks of `stat`.
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        // A thread may end meanwhile.
        if let Ok(schedstat) = fs::read_to_string(task?.path().join("schedstat")) {
            sum += on_cpu_ns(&schedstat)?;
        }
    }
    Ok(sum)
}

/// The same of the calling thread.
pub fn thread_cpu_ns() -> Result<u64> {
    on_cpu_ns(&fs::read_to_string("/proc/thread-self/schedstat")?)
}

fn on_cpu_ns(schedstat: &str) -> Result<u64> {
    let first = schedstat.split_whitespace().next();
    Ok(first.context("this kernel keeps no schedstat")?.parse()?)
}

/// Peak resident memory, KiB.
pub fn peak_rss_kib(pid: u32) -> Result<u64> {
    memory_kib(pid, "VmHWM")
}

/// One of the numbers of `status` that are in KiB.
pub fn memory_kib(pid: u32, key: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {key}"))?.parse()?)
}

/// How many files a process has open.
pub fn files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The ids of the BPF maps that a process has open.
pub fn bpf_maps(pid: u32) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let info = fs::read_to_string(file.path()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}

/// Maps and programs that a process has open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bpf {
    /// Memory of the maps, bytes
    pub map_bytes: u64,
    /// Time spent in programs, ns; 0 unless the kernel was told to count
    pub run_ns: u64,
    /// Runs of programs; 0 unless the kernel was told to count
    pub runs: u64,
    /// Runs skipped by the recursion guard
    pub misses: u64,
    /// Whether a program is attached
    pub attached: bool,
}

/// Looks through the open files.
pub fn bpf(pid: u32) -> Result<Bpf> {
    let mut found = Bpf::default();
    // Two files may be of the same map or program.
    let (mut maps, mut programs) = (BTreeMap::new(), BTreeMap::new());
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let Ok(info) = fs::read_to_string(file.path()) else {
            continue;
        };
        let number = |key: &str| -> u64 {
            let value = info
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            value
                .and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        let name = file.file_name();
        let link = fs::read_link(format!("/proc/{pid}/fd/{}", name.display()));
        let link = link.unwrap_or_default();
        let link = link.to_string_lossy();
        match link
            .trim_start_matches("anon_inode:")
            .trim_matches(['[', ']'])
        {
            "bpf-map" => {
                maps.insert(number("map_id"), number("memlock"));
            }
            "bpf-prog" => {
                let counts = ["run_time_ns", "run_cnt", "recursion_misses"].map(number);
                programs.insert(number("prog_id"), counts);
            }
            "bpf_link" | "bpf-link" | "bpf-raw-tracepoint" | "perf_event" => found.attached = true,
            _ => {}
        }
    }
    found.map_bytes = maps.values().sum();
    for [run_ns, runs, misses] in programs.into_values() {
        found.run_ns += run_ns;
        found.runs += runs;
        found.misses += misses;
    }
    Ok(found)
}

/// How many instructions the verifier has looked at, for all programs that a process has open; 0 where the
/// kernel does not say (before 5.16).
pub fn verified_instructions(pid: u32) -> Result<u64> {
    let mut programs = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let info = fs::read_to_string(file.path()).unwrap_or_default();
        let number = |key: &str| {
            let value = info.lines().find_map(|line| line.strip_prefix(key));
            value.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(verified)) = (number("prog_id:"), number("verified_insns:")) {
            programs.insert(id, verified);
        }
    }
    Ok(programs.into_values().sum())
}

/// Waits until a process has done less than a hundredth of a processor's work for a while.
pub fn wait_until_idle(pid: u32, limit: Duration) -> Result<()> {
    const TURN: Duration = Duration::from_millis(50);
    const QUIET_TURNS: u32 = 4;
    const QUIET_NS: u64 = 1_500_000;
    let start = Instant::now();
    let mut before = cpu_ns(pid)?;
    let mut quiet = 0;
    while quiet < QUIET_TURNS && start.elapsed() < limit {
        thread::sleep(TURN);
        let now = cpu_ns(pid)?;
        // The sum over threads: one of them may have ended.
        quiet = if now.saturating_sub(before) < QUIET_NS {
            quiet + 1
        } else {
            0
        };
        before = now;
    }
    Ok(())
}
