//! `cargo xtask run`: the agent, compiled if needed, as root.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};
use toolchain::workspace;

/// A build that takes longer than this has something to compile, and says so.
const PATIENCE: Duration = Duration::from_secs(1);

/// What `cargo xtask run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of tcptrace
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Compiles, and becomes the agent, so that its signals and exit status are the agent's.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::setup(Found::Hidden)?;
    let (done, waiting) = mpsc::channel::<()>();
    thread::spawn(move || {
        if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            eprintln!("compiling tcptrace...");
        }
    });
    let built = build::build(Profile::Release, None, Progress::Hidden)?;
    drop(done);
    let error = workspace::as_root(&built.tcptrace).args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", built.tcptrace.display()))
}
