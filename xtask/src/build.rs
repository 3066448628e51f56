//! `cargo xtask build`: the agent with the eBPF side in it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::setup::{self, Found};
use crate::workspace;

/// What `cargo xtask build` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Compile without optimization, into target/debug
    #[arg(long)]
    debug: bool,
}

/// What a build leaves.
#[derive(Debug)]
pub(crate) struct Built {
    /// The agent.
    pub(crate) tcptrace: PathBuf,
    /// The compiled eBPF side, which the agent has a copy of.
    pub(crate) bpf_object: PathBuf,
    /// The target it is for, if that is not this machine.
    pub(crate) target: Option<&'static str>,
}

impl Built {
    /// Where cargo puts what it compiles for that target, and we the logs of running it.
    pub(crate) fn target_folder(&self) -> Result<&Path> {
        let folder = self.tcptrace.ancestors().nth(2);
        folder.context("the build is in no target folder")
    }
}

/// Sets up and compiles.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::setup(Found::Shown)?;
    build(
        if args.debug {
            Profile::Debug
        } else {
            Profile::Release
        },
        None,
        Progress::Shown,
    )?;
    Ok(())
}

/// How to compile the agent. The eBPF side is always optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Unoptimized.
    Debug,
    /// Optimized.
    Release,
}

/// Whether cargo shows what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All of it.
    Shown,
    /// Warnings and errors only.
    Hidden,
}

/// Compiles the agent, and finds out from cargo where it put it.
///
/// For another `target` it is linked with the linker that comes with Rust.
pub(crate) fn build(
    profile: Profile,
    target: Option<&'static str>,
    progress: Progress,
) -> Result<Built> {
    let mut cargo = workspace::cargo("build");
    cargo.args(["--package", "tcptrace"]);
    workspace::compile_for(&mut cargo, target);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    if progress == Progress::Hidden {
        cargo.arg("--quiet");
    }
    let (mut tcptrace, mut out_dir) = (None, None);
    for message in workspace::cargo_messages(&mut cargo)? {
        if !message["package_id"]
            .as_str()
            .is_some_and(|id| id.contains("/tcptrace#"))
        {
            continue;
        }
        if let Some(executable) = message["executable"].as_str() {
            tcptrace = Some(PathBuf::from(executable));
        }
        if let Some(folder) = message["out_dir"].as_str() {
            out_dir = Some(PathBuf::from(folder));
        }
    }
    Ok(Built {
        tcptrace: tcptrace.context("cargo named no executable")?,
        bpf_object: out_dir
            .context("cargo named no build folder")?
            .join("tcptrace.bpf.o"),
        target,
    })
}
