//! The main tracer's output, read with the claims of the load's processes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::ChildStdout;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};

use super::checker::{Checker, Numbers};
use super::claim::{self, Claim};

/// As much as the tracer writes at once.
const BATCH: usize = 256 << 10;

/// The claims' end of the pipe that reads; it does not wait.
#[derive(Debug)]
pub(super) struct Claims {
    pipe: File,
    /// A part of a claim
    begun: Vec<u8>,
}

impl Claims {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self {
            pipe: pipe.into(),
            begun: Vec::new(),
        }
    }

    /// Hands on all that have been made by now.
    fn drain(&mut self, checker: &mut Checker) -> Result<()> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let len = match self.pipe.read(&mut bytes) {
                Ok(len) => len,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(why) => return Err(why.into()),
            };
            if len == 0 {
                return Ok(());
            }
            self.begun.extend_from_slice(&bytes[..len]);
            let (claims, rest) = self.begun.as_chunks::<{ claim::LEN }>();
            for claim in claims {
                checker.claim(Claim::decode(claim));
            }
            self.begun = rest.to_vec();
        }
    }
}

/// Reads to the end of the output, which goes into the file `keep` as well. `numbers` has the state of things meanwhile.
///
/// A process says what it knows of a socket before it closes it. So by the time at which the record
/// of the end is here, the claim is in the pipe, and is read before that record is looked at.
pub(super) fn read(
    mut lines: ChildStdout,
    mut keep: Option<File>,
    mut claims: Claims,
    mut checker: Checker,
    numbers: &Arc<Mutex<Numbers>>,
) -> Result<Checker> {
    let mut text = Vec::with_capacity(2 * BATCH);
    let mut bytes = vec![0; BATCH];
    loop {
        let mut fds = [
            PollFd::new(&lines, PollFlags::IN),
            PollFd::new(&claims.pipe, PollFlags::IN),
        ];
        poll(&mut fds, None)?;
        let ready = !fds[0].revents().is_empty();
        if ready {
            let len = lines.read(&mut bytes)?;
            claims.drain(&mut checker)?;
            if len == 0 {
                break;
            }
            if let Some(keep) = &mut keep {
                keep.write_all(&bytes[..len])?;
            }
            text.extend_from_slice(&bytes[..len]);
            let last_newline = text.iter().rposition(|byte| *byte == b'\n');
            let rest = text.split_off(last_newline.map_or(0, |at| at + 1));
            checker.read(str::from_utf8(&text)?);
            text = rest;
            *numbers.lock().unwrap_or_else(PoisonError::into_inner) = checker.numbers;
        } else {
            claims.drain(&mut checker)?;
        }
    }
    if !text.is_empty() {
        checker.read(str::from_utf8(&text)?);
    }
    Ok(checker)
}
