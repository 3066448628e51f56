//! How many changes of state there were, as the kernel's own ftrace counts them.
//!
//! A private instance with small buffers. What is overwritten in them is counted as well as what
//! is in them, so the sum is exact however much there was. Two more instances keep what interrupted the
//! threads of the first process, changes of state and ends of time-wait sockets: there are kernels that
//! run no BPF program there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context as _, Result};

use toolchain::workspace;

/// What ends a time-wait socket in the end (`net/ipv4/inet_timewait_sock.c`).
const TIME_WAIT_TIMER: &str = "tw_timer_handler";

const STATES: &str = "sock/inet_sock_set_state";

const NAME_PREFIX: &str = "tcptrace-soak-";

/// Room for what a processor writes while an interrupt keeps it from ending a record.
const BUFFER_KIB: &str = "256";

/// What every kernel shows to ftrace, but not to BPF programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    /// `CLOCK_MONOTONIC`
    pub(super) at_us: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A change of state between the local port and the other
    Transition([u16; 2]),
    /// A time-wait socket's time was over
    Expiry,
}

/// A running count.
#[derive(Debug)]
pub(super) struct Oracle {
    all: Instance,
    over_init: Instance,
    /// Ends of time-wait sockets, of the same kind
    timers: Instance,
}

#[derive(Debug)]
struct Instance(PathBuf);

impl Oracle {
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
        let threads = threads.join(" || ");
        let begin = |name, event, filter: &str| {
            Instance::begin(instance.with_extension(name), event, filter)
        };
        let timer = function(TIME_WAIT_TIMER)?;
        Ok(Self {
            over_init: begin("init", STATES, &format!("protocol == 6 && ({threads})"))?,
            timers: begin(
                "timers",
                "timer/timer_expire_entry",
                &format!("function == {timer} && ({threads})"),
            )?,
            all: begin("all", STATES, "protocol == 6")?,
        })
    }

    /// All changes of state of TCP sockets since the beginning.
    pub(super) fn count(&self) -> Result<u64> {
        self.all.count()
    }

    /// What interrupted the first process: a kernel may have missed it.
    pub(super) fn missed(&self) -> Result<Vec<Missed>> {
        let [transitions, expiries] = [&self.over_init, &self.timers]
            .map(|instance| fs::read_to_string(instance.0.join("trace")));
        let trace = transitions? + &expiries?;
        let lines = trace.lines().filter(|line| !line.starts_with('#'));
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
    fn begin(folder: PathBuf, event: &str, filter: &str) -> Result<Self> {
        fs::create_dir(&folder).context("cannot make an instance of ftrace")?;
        let instance = Self(folder);
        for (file, text) in [("buffer_size_kb", BUFFER_KIB), ("trace_clock", "mono")] {
            instance.write(file, text)?;
        }
        instance.write(&format!("events/{event}/filter"), filter)?;
        instance.write(&format!("events/{event}/enable"), "1")?;
        Ok(instance)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = self.0.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
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
fn parse(line: &str) -> Option<Missed> {
    let (head, what) = if let Some((head, fields)) = line.split_once(": inet_sock_set_state: ") {
        let port = |name: &str| {
            let mut fields = fields.split(' ').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name)?.1.parse().ok()
        };
        (head, What::Transition([port("sport")?, port("dport")?]))
    } else {
        (line.split_once(": timer_expire_entry: ")?.0, What::Expiry)
    };
    let (seconds, micros) = head.rsplit(' ').next()?.split_once('.')?;
    let at_us = seconds.parse::<u64>().ok()? * 1_000_000 + micros.parse::<u64>().ok()?;
    Some(Missed { at_us, what })
}

/// The address of a function of the kernel.
fn function(name: &str) -> Result<String> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let mut found = symbols
        .lines()
        .filter(|line| line.split(' ').nth(2) == Some(name));
    let line = found
        .next()
        .with_context(|| format!("the kernel has no {name}"))?;
    let address = line.split(' ').next().unwrap_or_default();
    Ok(format!("0x{address}"))
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
        let missed = parse(line).unwrap();
        assert_eq!(missed.at_us, 24_655_278_025);
        assert_eq!(missed.what, What::Transition([49946, 7000]));
        let line = " init-1       [000] ..s1.   100.000001: timer_expire_entry: timer=00000000c0ffee00 \
                    function=tw_timer_handler now=4294950000 baseclk=4294950000";
        assert_eq!(parse(line).unwrap().what, What::Expiry);
    }
}
