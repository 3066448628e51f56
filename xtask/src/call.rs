//! Tasks that are programs of their own: compiled when they are called.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use toolchain::build;

/// What is passed on to the program.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    /// Its own; --help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Compiles the program of a package of that name, and becomes it.
pub(crate) fn run(package: &str, args: &Args, options: &[&str]) -> Result<()> {
    let program = build::executable(package, package, options)?;
    let error = Command::new(&program).args(&args.args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}
