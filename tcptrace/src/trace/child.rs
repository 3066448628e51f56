//! The command behind `--`: made before anything is attached, let go once everything is.
//!
//! What is started is this program once more. It waits for a byte in a pipe, gives up the rights of root
//! that `sudo` lent, and then becomes the command: so the process is known, and followed, before the
//! command's first instruction.
#![expect(
    clippy::disallowed_types,
    reason = "the command that the user asks for, and nothing else, is run"
)]

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, User};
use rustix::{
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};

use crate::error::Error;

/// What this program is told to be the command's beginning.
pub const SUBCOMMAND: &str = "__exec";

/// Exit status of a command that is not there, as in a shell.
const NOT_FOUND: u8 = 127;
/// Exit status of a command that cannot be executed, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status of a command that a signal has ended: this and the signal's number.
const BY_SIGNAL: u8 = 128;

/// The command's process.
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    gate: Option<Gate>,
}

/// What the command waits behind.
#[derive(Debug)]
pub struct Gate(File);

impl Gate {
    /// Lets the command begin.
    pub fn open(mut self) {
        if let Err(why) = self.0.write_all(&[1]) {
            log::warn!("the command cannot begin: {why}");
        }
    }
}

impl Child {
    /// Makes the process, which waits for [`Gate::open`]. It ends without a word if that never comes.
    pub fn hold(command: &[OsString]) -> Result<Self, Error> {
        let (theirs, ours) = gate().context("cannot make a pipe")?;
        let process = Command::new("/proc/self/exe")
            .arg0("tcptrace")
            .arg(SUBCOMMAND)
            .arg(theirs.as_raw_fd().to_string())
            .arg("--")
            .args(command)
            .spawn()
            .context("cannot start a process for the command")?;
        Ok(Self {
            process,
            gate: Some(Gate(ours)),
        })
    }

    /// Its id, which stays the command's.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it waits behind: there for the first who asks.
    pub fn gate(&mut self) -> Option<Gate> {
        self.gate.take()
    }

    /// Waits for its end. Returns its exit status as a shell has it.
    pub fn wait(mut self) -> io::Result<u8> {
        Ok(shell_status(self.process.wait()?))
    }
}

/// Passes a signal on that was meant for the command.
pub fn forward(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(why) = kill_process(pid, signal)
    {
        log::debug!("the command gets no signal: {why}");
    }
}

/// A pipe of which the command's beginning inherits the reading end.
fn gate() -> io::Result<(OwnedFd, File)> {
    let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfd(&theirs, FdFlags::empty())?;
    Ok((theirs, ours.into()))
}

fn shell_status(status: ExitStatus) -> u8 {
    let by_signal = |signal| u8::try_from(signal).map_or(u8::MAX, |signal| BY_SIGNAL + signal);
    match status.code() {
        Some(code) => u8::try_from(code).unwrap_or(u8::MAX),
        None => status.signal().map_or(u8::MAX, by_signal),
    }
}

/// The command's beginning: waits at the gate, a file descriptor that it inherits, and becomes the command.
pub fn become_command(gate: i32, command: &[OsString]) -> Result<ExitCode, Error> {
    if !is_opened(gate).context("cannot wait for the trace to begin")? {
        return Ok(ExitCode::SUCCESS);
    }
    let Some((program, args)) = command.split_first() else {
        return Err(Error::usage("no command"));
    };
    let mut process = Command::new(program);
    process.args(args);
    if let Some(user) = Invoker::look() {
        user.become_me(&mut process)?;
    }
    Ok(refused(program, &process.exec()))
}

/// Waits for a byte, and closes the gate. Whether one has come.
fn is_opened(gate: i32) -> io::Result<bool> {
    let mut byte = [0];
    let opened = File::open(format!("/proc/self/fd/{gate}"))?.read(&mut byte)? == 1;
    nix::unistd::close(gate)?;
    Ok(opened)
}

/// Says why the command could not be executed.
#[expect(
    clippy::unnecessary_debug_formatting,
    reason = "it escapes what drives a terminal"
)]
fn refused(program: &OsStr, why: &io::Error) -> ExitCode {
    let status = if why.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    // Standard error may be closed; there is nowhere left to say so.
    let _unsaid = writeln!(io::stderr(), "tcptrace: cannot run {program:?}: {why}");
    ExitCode::from(status)
}

/// Who has called `sudo`.
struct Invoker {
    uid: Uid,
    gid: Gid,
    user: Option<User>,
}

impl Invoker {
    /// None if we are not root, or root is who called.
    fn look() -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let uid = Uid::from_raw(number("SUDO_UID").filter(|uid| *uid != 0)?);
        let user = User::from_uid(uid).ok().flatten();
        let gid = number("SUDO_GID").map(Gid::from_raw);
        Some(Self {
            uid,
            gid: gid.or(user.as_ref().map(|user| user.gid))?,
            user,
        })
    }

    /// Gives up root's rights, and has the command find the environment of the user.
    fn become_me(&self, process: &mut Command) -> Result<(), Error> {
        let name = self
            .user
            .as_ref()
            .and_then(|user| CString::new(user.name.as_str()).ok());
        let groups = match name {
            Some(name) => nix::unistd::initgroups(&name, self.gid),
            None => nix::unistd::setgroups(&[self.gid]),
        };
        groups
            .and_then(|()| nix::unistd::setresgid(self.gid, self.gid, self.gid))
            .and_then(|()| nix::unistd::setresuid(self.uid, self.uid, self.uid))
            .with_context(|| format!("cannot run the command as user {}", self.uid))?;
        for name in [
            "SUDO_USER",
            "SUDO_UID",
            "SUDO_GID",
            "SUDO_COMMAND",
            "SUDO_HOME",
            "MAIL",
        ] {
            process.env_remove(name);
        }
        if let Some(user) = &self.user {
            let shell = if user.shell.as_os_str().is_empty() {
                PathBuf::from("/bin/sh")
            } else {
                user.shell.clone()
            };
            process
                .env("HOME", &user.dir)
                .env("SHELL", shell)
                .env("USER", &user.name)
                .env("LOGNAME", &user.name);
        }
        Ok(())
    }
}
