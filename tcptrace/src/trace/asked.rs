//! The processes of `-p` while they run, and their end.

use std::{fs, os::fd::OwnedFd, thread};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::sync::oneshot;

use crate::{error::Error, kernel};

/// Processes of which each is said to have ended when it has.
#[derive(Debug)]
pub struct Asked {
    running: Vec<Process>,
    /// Some were not there: a process may come that gets such an id
    waits_for_others: bool,
    ended: Option<oneshot::Receiver<()>>,
}

/// A process that runs.
#[derive(Debug)]
struct Process {
    pid: u32,
    name: String,
    /// Readable once it has ended
    fd: OwnedFd,
}

impl Process {
    fn open(pid: u32) -> Option<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let fd = pidfd_open(number, PidfdFlags::empty()).ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Self {
            pid,
            name: name.trim_end().to_owned(),
            fd,
        })
    }
}

impl Asked {
    /// Finds them, and warns of those that are not there.
    pub fn find(pids: &[u32]) -> Self {
        let mut asked = Self {
            running: Vec::new(),
            waits_for_others: false,
            ended: None,
        };
        // In another PID namespace these are not our ids.
        if !kernel::shows_all_processes() {
            return asked;
        }
        for pid in pids {
            if let Some(process) = Process::open(*pid) {
                asked.running.push(process);
            } else {
                asked.waits_for_others = true;
                log::warn!("there is no process {pid} now");
            }
        }
        asked
    }

    /// Watches them, on a thread of its own.
    pub(super) fn watch(&mut self) -> Result<(), Error> {
        let running = std::mem::take(&mut self.running);
        if running.is_empty() {
            return Ok(());
        }
        let (done, ended) = oneshot::channel();
        self.ended = Some(ended);
        let waits_for_others = self.waits_for_others;
        thread::Builder::new()
            .name("tcptrace-asked".to_owned())
            .spawn(move || {
                if until_the_last(running).is_ok() && !waits_for_others {
                    // Nobody listens any more only when we are about to end anyway.
                    let _unheard = done.send(());
                }
            })
            .context("cannot start a thread")?;
        Ok(())
    }

    /// Waits until all have ended, for the first time; for ever where that is not known.
    pub(super) async fn ended(&mut self) {
        if let Some(ended) = &mut self.ended {
            let heard = ended.await;
            self.ended = None;
            if heard.is_ok() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

/// Says of each when it has ended.
fn until_the_last(mut running: Vec<Process>) -> Result<(), Errno> {
    while !running.is_empty() {
        let mut fds: Vec<_> = running
            .iter()
            .map(|process| PollFd::new(&process.fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
        let over: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut over = over.into_iter();
        running.retain(|process| {
            let is_over = over.next().unwrap_or(false);
            if is_over {
                let name = crate::sink::text::escape(process.name.as_bytes());
                log::warn!("process {} ({name}) has ended", process.pid);
            }
            !is_over
        });
    }
    Ok(())
}
