//! `cargo xtask test`: everything that is checked by running it.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{self, Built, Profile, Progress};
use crate::setup::{self, Found};
use crate::workspace;

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests with this in their names
    filter: Option<String>,
}

/// Runs all tests, also after some have failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::setup(Found::Shown)?;
    ensure_network_tools()?;
    let built = build::build(Profile::Release, Progress::Shown)?;

    let results = [
        ("unit tests", unit_tests(args, &built)),
        ("kernel tests", kernel_tests(args, &built)),
    ];
    eprintln!();
    for (name, result) in &results {
        match result {
            Ok(()) => eprintln!("{name}: passed"),
            Err(error) => eprintln!("{name}: FAILED: {error:#}"),
        }
    }
    if results.iter().any(|(_, result)| result.is_err()) {
        bail!("not everything passed");
    }
    Ok(())
}

/// The kernel tests build networks of their own with iproute2.
fn ensure_network_tools() -> Result<()> {
    if ["ip", "tc"].into_iter().all(workspace::has_program) {
        return Ok(());
    }
    if workspace::has_program("apt-get") {
        eprintln!("installing iproute2 with apt-get...");
        return setup::apt_install(&["iproute2"]);
    }
    bail!("the kernel tests need the commands ip and tc: install the package iproute2");
}

fn unit_tests(args: &Args, built: &Built) -> Result<()> {
    eprintln!("\n== unit tests");
    let mut cargo = test_command(built);
    cargo
        .args(["--workspace", "--exclude", "tcptrace-ebpf"])
        .args(&args.filter);
    workspace::run(&mut cargo)
}

fn kernel_tests(args: &Args, built: &Built) -> Result<()> {
    eprintln!("\n== kernel tests");
    let executable = build_kernel_tests(built)?;
    // sudo drops the environment, so the variable is set behind it.
    let mut variable = OsString::from("TCPTRACE_BIN=");
    variable.push(&built.tcptrace);
    let mut tests = workspace::as_root("env");
    tests
        .arg(variable)
        .arg(executable)
        .args(&args.filter)
        .current_dir(workspace::root().join("tcptrace"));
    workspace::run(&mut tests)
}

/// Compiled as the user even if they run as root, so that target/ stays the user's.
fn build_kernel_tests(built: &Built) -> Result<PathBuf> {
    let mut cargo = test_command(built);
    cargo
        .args([
            "--package",
            "tcptrace",
            "--features",
            "kernel-tests",
            "--test",
            "kernel",
        ])
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped());
    let mut cargo = cargo.spawn().context("cannot run cargo")?;
    let messages = cargo.stdout.take().context("cargo has no stdout")?;
    let mut executable = None;
    for line in BufReader::new(messages).lines() {
        let message: Value = serde_json::from_str(&line?).context("reading cargo's messages")?;
        if message["target"]["name"] == "kernel"
            && let Some(path) = message["executable"].as_str()
        {
            executable = Some(Path::new(path).to_owned());
        }
    }
    if !cargo.wait()?.success() {
        bail!("they did not compile");
    }
    executable.context("cargo named no executable")
}

/// `cargo test`, with the eBPF side that is in the release build: compiling it once is enough.
fn test_command(built: &Built) -> Command {
    let mut cargo = workspace::cargo("test");
    cargo.env("TCPTRACE_BPF_OBJECT", &built.bpf_object);
    cargo
}
