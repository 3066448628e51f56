//! `cargo xtask build`: the agent with the eBPF side in it.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

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
pub(crate) fn build(profile: Profile, progress: Progress) -> Result<Built> {
    let mut cargo = workspace::cargo("build");
    cargo
        .args([
            "--package",
            "tcptrace",
            "--message-format",
            "json-render-diagnostics",
        ])
        .stdout(Stdio::piped());
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    if progress == Progress::Hidden {
        cargo.arg("--quiet");
    }
    let mut cargo = cargo.spawn().context("cannot run cargo")?;
    let messages = cargo.stdout.take().context("cargo has no stdout")?;

    let (mut tcptrace, mut out_dir) = (None, None);
    for line in BufReader::new(messages).lines() {
        let message: Value = serde_json::from_str(&line?).context("reading cargo's messages")?;
        if !is_of_agent(&message) {
            continue;
        }
        if let Some(executable) = message["executable"].as_str() {
            tcptrace = Some(PathBuf::from(executable));
        }
        if let Some(folder) = message["out_dir"].as_str() {
            out_dir = Some(PathBuf::from(folder));
        }
    }
    if !cargo.wait()?.success() {
        bail!("tcptrace did not compile");
    }
    Ok(Built {
        tcptrace: tcptrace.context("cargo named no executable")?,
        bpf_object: out_dir
            .context("cargo named no build folder")?
            .join("tcptrace.bpf.o"),
    })
}

fn is_of_agent(message: &Value) -> bool {
    let package = message["package_id"].as_str().unwrap_or_default();
    package.contains("/tcptrace#")
}
