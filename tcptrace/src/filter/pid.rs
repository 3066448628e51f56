//! `-p`: by owner.

use std::collections::BTreeMap;

use clap::Args;
use tcptrace_common::config::{PID_ASKED, PID_FOLLOWED};

use super::{Filter, KernelFilters, Subject};
use crate::error::Error;

/// Entries of the kernel side's `PIDS` map.
const PIDS_MAX: usize = 4096;
/// `PID_MAX_LIMIT`, include/linux/threads.h
const PID_MAX: u32 = 1 << 22;

/// `-p` as typed.
#[derive(Args, Clone, Debug, Default)]
pub struct PidArgs {
    /// Only connections owned by these processes, from their first transition; the trace ends when all of
    /// them have ended
    #[arg(short, long, value_name = "PID", value_delimiter = ',', value_parser = parse_pid,
          allow_hyphen_values = true)]
    pub pid: Vec<u32>,
    /// With -p, -c or --exe: also of the processes that those fork from now on
    #[arg(short, long)]
    pub follow: bool,
}

fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse()
        .ok()
        .filter(|pid| (1..=PID_MAX).contains(pid))
        .ok_or_else(|| "not a process id; use numbers as in 4242 or 4242,4243".to_owned())
}

/// Processes whose connections are wanted; none: everybody's.
#[derive(Clone, Debug, Default)]
pub struct Pids {
    asked: Vec<u32>,
    follow: bool,
    /// The process that becomes the command behind `--`
    command: Option<u32>,
}

impl Pids {
    /// Checks how many there are.
    pub fn parse(args: PidArgs) -> Result<Self, Error> {
        let many = args.pid.len();
        if many > PIDS_MAX {
            return Err(Error::usage(format!(
                "-p: {many} process ids are too many, at most {PIDS_MAX}"
            )));
        }
        Ok(Self {
            asked: args.pid,
            follow: args.follow,
            command: None,
        })
    }

    /// Follows the process that becomes the command, and all that come of it.
    pub fn follow_command(&mut self, pid: u32) {
        self.command = Some(pid);
        self.follow = true;
    }

    /// Whether children are followed.
    pub fn follows(&self) -> bool {
        self.follow
    }

    /// The processes; empty if nobody asked for any.
    pub fn as_slice(&self) -> &[u32] {
        &self.asked
    }
}

impl Filter for Pids {
    fn typed(&self, typed: &mut BTreeMap<&'static str, String>) {
        if !self.asked.is_empty() {
            let pids: Vec<_> = self.asked.iter().map(u32::to_string).collect();
            typed.insert("pid", pids.join(","));
        }
        if self.follow {
            typed.insert("follow", "true".to_owned());
        }
    }

    fn configure(&self, kernel: &mut KernelFilters) {
        kernel.config.follow = u8::from(self.follow);
        kernel
            .pids
            .extend(self.asked.iter().map(|pid| (*pid, PID_ASKED)));
        kernel
            .pids
            .extend(self.command.map(|pid| (pid, PID_FOLLOWED)));
        if kernel.pids.is_empty() {
            return;
        }
        kernel.config.by_pid = 1;
        kernel.config.in_pids = 1;
        kernel.config.only_pid = match self.asked.as_slice() {
            [only] if !self.follow => *only,
            _ => 0,
        };
    }

    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.asked.is_empty() || subject.pids.iter().any(|owner| self.asked.contains(owner))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SUBJECT, parse, passes};

    #[test]
    fn any_owner_will_do() {
        assert!(passes(&["-p", "9,11"], &SUBJECT));
        assert!(!passes(&["-p", "9"], &SUBJECT));
    }

    #[test]
    fn no_process_has_such_a_number() {
        for pid in ["0", "-1", "x", "4194305", ""] {
            assert!(parse(&["-p", pid]).is_err(), "{pid}");
        }
        let many = vec!["1"; super::PIDS_MAX + 1].join(",");
        assert!(parse(&["-p", &many]).unwrap_err().contains("too many"));
    }
}
