//! `cargo xtask run`: the agent, compiled if needed, as root.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::build::{self, Profile, Progress};
use crate::setup::{self, Found};
use crate::workspace;

/// What `cargo xtask run` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Arguments of tcptrace
    #[arg(last = true)]
    args: Vec<OsString>,
}

/// Compiles, and becomes the agent, so that its signals and exit status are the agent's.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::setup(Found::Hidden)?;
    let built = build::build(Profile::Release, Progress::Hidden)?;
    let error = workspace::as_root(&built.tcptrace).args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", built.tcptrace.display()))
}
