//! Compiling: the agent with the eBPF side in it, its kernel tests, and other programs of the project.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::workspace;

/// What a build leaves.
#[derive(Debug)]
pub struct Built {
    /// The agent.
    pub tcptrace: PathBuf,
    /// The compiled eBPF side, which the agent has a copy of.
    pub bpf_object: PathBuf,
    /// The target it is for, if that is not this machine.
    pub target: Option<&'static str>,
}

impl Built {
    /// Where cargo puts what it compiles for that target, and we the logs of running it.
    pub fn target_folder(&self) -> Result<&Path> {
        let folder = self.tcptrace.ancestors().nth(2);
        folder.context("the build is in no target folder")
    }
}

/// How to compile the agent. The eBPF side is always optimized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Unoptimized.
    Debug,
    /// Optimized.
    Release,
}

/// Whether cargo shows what it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it.
    Shown,
    /// Warnings and errors only.
    Hidden,
}

/// Compiles the agent, and finds out from cargo where it put it.
///
/// For another `target` it is linked with the linker that comes with Rust.
pub fn build(profile: Profile, target: Option<&'static str>, progress: Progress) -> Result<Built> {
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

/// Compiles a program of the project with `options` for cargo, and finds out where cargo put it.
pub fn executable(package: &str, name: &str, options: &[&str]) -> Result<PathBuf> {
    let mut cargo = workspace::cargo("build");
    cargo.args(["--package", package, "--bin", name]);
    cargo.args(options);
    workspace::cargo_messages(&mut cargo)?
        .iter()
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}

/// The harness of the kernel tests.
///
/// Compiled as the user even if they run as root, so that target/ stays the user's.
pub fn build_kernel_tests(built: &Built) -> Result<PathBuf> {
    let mut cargo = test_command(built);
    cargo.args(["--test", "kernel", "--no-run"]);
    workspace::cargo_messages(&mut cargo)?
        .iter()
        .filter(|message| message["target"]["name"] == "kernel")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}

/// `cargo test` of all that runs on the build's machine, with the eBPF side that is in the release build:
/// compiling that once is enough.
pub fn test_command(built: &Built) -> Command {
    let mut cargo = workspace::cargo("test");
    cargo
        .args(["--workspace", "--exclude", "tcptrace-ebpf"])
        .env("TCPTRACE_BPF_OBJECT", &built.bpf_object);
    workspace::compile_for(&mut cargo, built.target);
    cargo
}
