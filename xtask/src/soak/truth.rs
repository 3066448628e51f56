//! How many changes of state there were, as the kernel's own ftrace counts them.
//!
//! A private instance with small buffers. What is overwritten in them is counted as well as what
//! is in them, so the sum is exact however much there was. A second instance counts what interrupted
//! the threads of the first process: there are kernels that run no BPF program there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result};

use crate::workspace;

const NAME_PREFIX: &str = "tcptrace-soak-";

/// Room for what a processor writes while an interrupt keeps it from ending a record.
const BUFFER_KIB: &str = "256";

/// A change of state that every kernel shows to ftrace, but not to BPF programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hidden {
    /// `CLOCK_MONOTONIC`
    pub(super) at_us: u64,
    /// The local one, and the other
    pub(super) ports: [u16; 2],
}

/// A running count.
#[derive(Debug)]
pub(super) struct Truth {
    all: Instance,
    over_init: Instance,
}

#[derive(Debug)]
struct Instance(PathBuf);

impl Truth {
    /// Mounts tracefs at `folder`, seen by this process and its children alone, and begins.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        workspace::run(
            Command::new("mount")
                .args(["-t", "tracefs", "tracefs"])
                .arg(folder),
        )?;
        let instances = folder.join("instances");
        clear_away(&instances)?;
        let instance = instances.join(format!("{NAME_PREFIX}{}", process::id()));
        let threads: Vec<_> = fs::read_dir("/proc/1/task")?
            .map(|thread| Ok(format!("common_pid == {}", thread?.file_name().display())))
            .collect::<Result<_>>()?;
        let over_init = format!("protocol == 6 && ({})", threads.join(" || "));
        Ok(Self {
            all: Instance::begin(instance.with_extension("all"), "protocol == 6")?,
            over_init: Instance::begin(instance.with_extension("init"), &over_init)?,
        })
    }

    /// All changes of state of TCP sockets since the beginning.
    pub(super) fn count(&self) -> Result<u64> {
        self.all.count()
    }

    /// Those that interrupted the first process: a kernel may have hidden them.
    pub(super) fn hidden(&self) -> Result<Vec<Hidden>> {
        let trace = fs::read_to_string(self.over_init.0.join("trace"))?;
        let lines = trace.lines().filter(|line| line.contains("sport="));
        lines
            .map(|line| parse(line).with_context(|| format!("not understood: {line}")))
            .collect()
    }

    /// Those that every kernel shows to BPF programs.
    pub(super) fn shown(&self) -> Result<u64> {
        Ok(self.all.count()?.saturating_sub(self.over_init.count()?))
    }
}

impl Instance {
    fn begin(folder: PathBuf, filter: &str) -> Result<Self> {
        fs::create_dir(&folder).context("cannot make an instance of ftrace")?;
        let instance = Self(folder);
        for (file, text) in [
            ("buffer_size_kb", BUFFER_KIB),
            ("trace_clock", "mono"),
            ("events/sock/inet_sock_set_state/filter", filter),
            ("events/sock/inet_sock_set_state/enable", "1"),
        ] {
            let path = instance.0.join(file);
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(instance)
    }

    fn count(&self) -> Result<u64> {
        const COUNTED: [&str; 4] = ["entries", "overrun", "commit overrun", "dropped events"];
        let mut sum = 0;
        for cpu in fs::read_dir(self.0.join("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            for line in stats.lines() {
                if let Some((name, count)) = line.split_once(": ")
                    && COUNTED.contains(&name)
                {
                    sum += count.trim().parse::<u64>()?;
                }
            }
        }
        Ok(sum)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(why) = fs::remove_dir(&self.0) {
            eprintln!("{} stays: {why}", self.0.display());
        }
    }
}

/// As `task-pid [cpu] flags seconds.microseconds: inet_sock_set_state: … sport=1 dport=2 …`.
fn parse(line: &str) -> Option<Hidden> {
    let (head, fields) = line.split_once(": inet_sock_set_state: ")?;
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    let at_us = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    let port = |name: &str| {
        let mut fields = fields.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(key, _)| *key == name)?.1.parse().ok()
    };
    Some(Hidden {
        at_us,
        ports: [port("sport")?, port("dport")?],
    })
}

/// Removes what runs that were killed have left.
fn clear_away(instances: &Path) -> Result<()> {
    for entry in fs::read_dir(instances)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if let Some(pid) = name.strip_prefix(NAME_PREFIX)
            && let Some((pid, _)) = pid.split_once('.')
            && !Path::new("/proc").join(pid).exists()
        {
            fs::remove_dir(instances.join(&*name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ftrace() {
        let line = " init-1       [001] ..s2. 24655.278025: inet_sock_set_state: family=AF_INET \
                    protocol=IPPROTO_TCP sport=49946 dport=7000 saddr=127.0.0.1 daddr=127.1.1.1";
        let hidden = parse(line).unwrap();
        assert_eq!(
            (hidden.at_us, hidden.ports),
            (24_655_278_025, [49946, 7000])
        );
    }
}
