//! `cargo xtask build`: the agent with the eBPF side in it.

use anyhow::Result;
use toolchain::build::{self, Profile, Progress};
use toolchain::setup::{self, Found};

/// What `cargo xtask build` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compile without optimization, into target/debug
    #[arg(long)]
    debug: bool,
}

/// Sets up and compiles.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::setup(Found::Shown)?;
    let profile = if args.debug {
        Profile::Debug
    } else {
        Profile::Release
    };
    build::build(profile, None, Progress::Shown)?;
    Ok(())
}
