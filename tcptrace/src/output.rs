//! Where the lines go: standard output or a file, in whole lines.

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{error::Error, file};

/// An open destination.
#[derive(Debug)]
pub struct Output {
    target: Target,
}

#[derive(Debug)]
enum Target {
    Stdout(io::Stdout),
    File(PathBuf, File),
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it
    Whole,
    /// The reader is gone
    Closed,
}

impl Output {
    /// Standard output, or `path` for appending.
    pub fn open(path: Option<PathBuf>) -> Result<Self, Error> {
        let target = match path {
            None => Target::Stdout(io::stdout()),
            Some(path) => {
                let file = append(&path)?;
                Target::File(path, file)
            }
        };
        Ok(Self { target })
    }

    /// Whether a person looks on.
    pub fn is_terminal(&self) -> bool {
        match &self.target {
            Target::Stdout(stdout) => stdout.is_terminal(),
            Target::File(..) => false,
        }
    }

    /// Standard output, if that is where lines go.
    pub fn stdout_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Stdout(stdout) => Some(stdout.as_fd()),
            Target::File(..) => None,
        }
    }

    /// Opens the file anew, after somebody has moved it away. Standard output stays.
    pub fn reopen(&mut self) -> Result<(), Error> {
        if let Target::File(path, file) = &mut self.target {
            *file = append(path)?;
        }
        Ok(())
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> Result<Written, Error> {
        let result = match &mut self.target {
            Target::Stdout(stdout) => write_all(stdout.as_fd(), lines),
            Target::File(_, file) => {
                let len = file.metadata().map(|metadata| metadata.len());
                write_all(file.as_fd(), lines).inspect_err(|_full| {
                    // No torn line for the next run to append to.
                    if let Ok(len) = len
                        && let Err(why) = file.set_len(len)
                    {
                        log::warn!("the last line may be cut: {why}");
                    }
                })
            }
        };
        match result {
            Ok(()) => Ok(Written::Whole),
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
            Err(why) => Err(anyhow::Error::new(why)
                .context(self.failed("write to"))
                .into()),
        }
    }

    fn failed(&self, what: &str) -> String {
        match &self.target {
            Target::Stdout(_) => format!("failed to {what} standard output"),
            Target::File(path, _) => format!("failed to {what} {}", path.display()),
        }
    }
}

/// Writes all, also where others have set the file not to block: a terminal and a pipe are shared.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(&fd, PollFlags::OUT)];
                match poll(&mut room, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(why) => return Err(why.into()),
                }
            }
            Err(why) => return Err(why.into()),
        }
    }
    Ok(())
}

fn append(path: &Path) -> Result<File, Error> {
    Ok(file::append(path).with_context(|| format!("failed to open {}", path.display()))?)
}
