//! The command behind `--` while it runs: its signals, and its end.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::Signal;
use tokio::sync::oneshot;

use super::{
    child::{Child, forward},
    supervise::{SAME_SIGNAL, Signals},
};
use crate::error::Error;

/// Exit status where the command's is not known: we were told to end before it.
const INTERRUPTED: u8 = 130;

/// A command that was started.
pub(super) struct Running {
    pid: u32,
    status: Option<oneshot::Receiver<u8>>,
    /// Its exit status, once it has ended
    ended: Option<u8>,
    /// When it was first sent a signal of ours
    asked: Option<Instant>,
}

impl Running {
    /// Waits for its end, on a thread of its own.
    pub(super) fn watch(child: Child) -> Result<Self, Error> {
        let (done, status) = oneshot::channel();
        let pid = child.pid();
        thread::Builder::new()
            .name("tcptrace-child".to_owned())
            .spawn(move || {
                let status = child.wait().unwrap_or_else(|why| {
                    log::warn!("the command's exit status is not known: {why}");
                    1
                });
                // Nobody listens any more only when we are about to end anyway.
                let _unheard = done.send(status);
            })
            .context("cannot start a thread")?;
        Ok(Self {
            pid,
            status: Some(status),
            ended: None,
            asked: None,
        })
    }

    /// Waits until it has ended, for the first time; for ever where there is none.
    pub(super) async fn ended(command: &mut Option<Self>) {
        if let Some(command) = command
            && let Some(status) = &mut command.status
        {
            let ended = status.await.unwrap_or(1);
            command.status = None;
            command.ended = Some(ended);
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a signal is the command's and not ours: the first one is, as long as it runs.
    pub(super) fn takes(command: Option<&mut Self>, signal: Signal) -> bool {
        let Some(command) = command.filter(|command| command.ended.is_none()) else {
            return false;
        };
        let now = Instant::now();
        if command.asked.is_none() && !(signal == Signal::INT && is_in_foreground()) {
            forward(command.pid, signal);
        }
        let asked = *command.asked.get_or_insert(now);
        now.duration_since(asked) < SAME_SIGNAL
    }

    /// The trace has ended; so will the command. Its exit status, or that of an interrupted program if a
    /// signal comes before, which it gets as well.
    pub(super) async fn end(&mut self, signals: &mut Signals) -> u8 {
        if let Some(status) = self.ended {
            return status;
        }
        let Some(status) = &mut self.status else {
            return INTERRUPTED;
        };
        if self
            .asked
            .is_some_and(|asked| asked.elapsed() > SAME_SIGNAL)
        {
            let soon = tokio::time::timeout(Duration::from_millis(100), status);
            return soon.await.map_or(INTERRUPTED, |status| status.unwrap_or(1));
        }
        tokio::select! {
            status = status => status.unwrap_or(1),
            _ = signals.interrupt.recv() => INTERRUPTED,
            _ = signals.terminate.recv() => INTERRUPTED,
        }
    }
}

/// Whether the terminal sends its signals to us, and so to the command as well, which is in our process
/// group.
fn is_in_foreground() -> bool {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return false;
    };
    // Behind the name: state, ppid, pgrp, session, tty_nr, tpgid.
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect())
        .unwrap_or_default();
    matches!(fields.as_slice(), [_, _, group, _, _, foreground, ..] if group == foreground)
}
