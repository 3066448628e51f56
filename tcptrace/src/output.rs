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
    fs::{FileType, fstat, ftruncate},
    io::Errno,
};

use crate::{error::Error, file};

/// An open destination.
#[derive(Debug)]
pub struct Output {
    target: Target,
    /// Whether that is a regular file
    regular: bool,
}

#[derive(Debug)]
enum Target {
    Stdout(io::Stdout),
    Stderr(io::Stderr),
    File(PathBuf, File),
}

impl Target {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdout(stdout) => stdout.as_fd(),
            Self::Stderr(stderr) => stderr.as_fd(),
            Self::File(_, file) => file.as_fd(),
        }
    }
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
    /// Standard output, or standard error if that is a command's; or `path` for appending.
    pub fn open(path: Option<PathBuf>, is_commands: bool) -> Result<Self, Error> {
        let target = match path {
            None if is_commands => Target::Stderr(io::stderr()),
            None => Target::Stdout(io::stdout()),
            Some(path) => {
                let file = append(&path)?;
                Target::File(path, file)
            }
        };
        let regular = len(target.fd()).is_some();
        Ok(Self { target, regular })
    }

    /// Whether a person looks on.
    pub fn is_terminal(&self) -> bool {
        !matches!(self.target, Target::File(..)) && self.target.fd().is_terminal()
    }

    /// How many columns the terminal has that shows the lines; none if none does.
    pub fn columns(&self) -> Option<usize> {
        if matches!(self.target, Target::File(..)) {
            return None;
        }
        // Anything but a terminal refuses.
        let size = rustix::termios::tcgetwinsize(self.target.fd()).ok()?;
        (size.ws_col > 0).then_some(size.ws_col.into())
    }

    /// Whether nothing is there before our first line: an empty file, or no file.
    pub fn is_new(&self) -> bool {
        len(self.target.fd()).is_none_or(|bytes| bytes == 0)
    }

    /// Standard output, if that is where lines go.
    pub fn stdout_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.target {
            Target::Stdout(stdout) => Some(stdout.as_fd()),
            Target::Stderr(_) | Target::File(..) => None,
        }
    }

    /// Opens the file anew, after somebody has moved it away, and tells whether it is a new one. Standard
    /// output stays.
    pub fn reopen(&mut self) -> Result<bool, Error> {
        let Target::File(path, file) = &mut self.target else {
            return Ok(false);
        };
        *file = append(path)?;
        let len = len(file.as_fd());
        self.regular = len.is_some();
        Ok(len == Some(0))
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> Result<Written, Error> {
        let fd = self.target.fd();
        let before = if self.regular { len(fd) } else { None };
        let mut left = lines;
        match write_all(fd, &mut left) {
            Ok(()) => Ok(Written::Whole),
            Err(why) if why.kind() == io::ErrorKind::BrokenPipe => Ok(Written::Closed),
            Err(why) => {
                let written = lines.len() - left.len();
                if let Some(before) = before
                    && written > 0
                    && let Err(why) = take_back(fd, before, written as u64)
                {
                    log::warn!("the last line may be cut: {why}");
                }
                Err(anyhow::Error::new(why)
                    .context(self.failed("write to"))
                    .into())
            }
        }
    }

    fn failed(&self, what: &str) -> String {
        match &self.target {
            Target::Stdout(_) => format!("failed to {what} standard output"),
            Target::Stderr(_) => format!("failed to {what} standard error"),
            Target::File(path, _) => format!("failed to {what} {}", path.display()),
        }
    }
}

/// The length of a regular file; none of anything else.
fn len(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = fstat(fd).ok()?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    regular.then_some(u64::try_from(stat.st_size).ok()?)
}

/// Takes back what was written to the end of a file of this length, so that no torn line is left for the
/// next run to append to. Fails if somebody else has written to it, too.
fn take_back(fd: BorrowedFd<'_>, before: u64, written: u64) -> io::Result<()> {
    if len(fd) != Some(before + written) {
        return Err(io::Error::other("others write to the file as well"));
    }
    Ok(ftruncate(fd, before)?)
}

/// Writes all, also where others have set the file not to block: a terminal and a pipe are shared. What is
/// not written stays in `bytes`.
fn write_all(fd: BorrowedFd<'_>, bytes: &mut &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => *bytes = bytes.get(written..).unwrap_or_default(),
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
