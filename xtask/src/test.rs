//! `cargo xtask test`: everything that is checked by running it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Built, Profile, Progress};
use crate::setup::{self, Found};
use crate::vm;
use crate::workspace::{self, Outcome};

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests with this in their names
    filter: Option<String>,
    /// Stop before the virtual machines: test on the running kernel alone
    #[arg(long)]
    here: bool,
}

/// Runs all tests, also after some have failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Shown)?;
    ensure_network_tools()?;
    let built = build::build(Profile::Release, None, Progress::Shown)?;

    let mut steps = vec![
        ("unit tests".to_owned(), unit_tests(args, &built)),
        ("kernel tests".to_owned(), kernel_tests(args, &built)),
    ];
    if args.here {
        let why = "--here was given".to_owned();
        steps.push(("other kernels".to_owned(), Ok(Outcome::Skipped(why))));
    } else {
        eprintln!("\n== kernel tests on other kernels");
        steps.extend(vm::matrix(&built, args.filter.as_deref()));
    }
    eprintln!("\n{} s in all", start.elapsed().as_secs());
    workspace::summarize(steps)
}

/// The kernel tests build networks of their own with iproute2.
pub(crate) fn ensure_network_tools() -> Result<()> {
    if ["ip", "tc"].into_iter().all(workspace::has_program) {
        return Ok(());
    }
    if workspace::has_program("apt-get") {
        eprintln!("installing iproute2 with apt-get...");
        return setup::apt_install(&["iproute2"]);
    }
    bail!("the kernel tests need the commands ip and tc: install the package iproute2");
}

fn unit_tests(args: &Args, built: &Built) -> Result<Outcome> {
    eprintln!("\n== unit tests");
    workspace::run(test_command(built).args(&args.filter))
}

fn kernel_tests(args: &Args, built: &Built) -> Result<Outcome> {
    eprintln!("\n== kernel tests");
    let executable = build_kernel_tests(built)?;
    // sudo drops the environment, so the variable is set behind it.
    let variable = |name: &str, path: &Path| {
        let mut variable = OsString::from(name);
        variable.push("=");
        variable.push(path);
        variable
    };
    let failures = built.target_folder()?.join("kernel-tests-failed.log");
    fs::write(&failures, "")?;
    let mut tests = workspace::as_root("env");
    tests
        .arg(variable("TCPTRACE_BIN", &built.tcptrace))
        .arg(variable("TCPTRACE_TEST_FAILURES", &failures))
        .arg(executable)
        .args(&args.filter)
        .current_dir(workspace::root().join("tcptrace"));
    // Said once more in the summary: hundreds of lines about other kernels come in between.
    workspace::run(&mut tests).or_else(|error| match fs::read_to_string(&failures)?.trim() {
        "" => Err(error),
        failed => bail!("\n{failed}"),
    })
}

/// The harness of the kernel tests.
///
/// Compiled as the user even if they run as root, so that target/ stays the user's.
pub(crate) fn build_kernel_tests(built: &Built) -> Result<PathBuf> {
    let mut cargo = test_command(built);
    cargo.args([
        "--features",
        "tcptrace/kernel-tests",
        "--test",
        "kernel",
        "--no-run",
    ]);
    workspace::cargo_messages(&mut cargo)?
        .iter()
        .filter(|message| message["target"]["name"] == "kernel")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no executable")
}

/// `cargo test` of all that runs on the build's machine, with the eBPF side that is in the release build:
/// compiling that once is enough.
fn test_command(built: &Built) -> Command {
    let mut cargo = workspace::cargo("test");
    cargo
        .args(["--workspace", "--exclude", "tcptrace-ebpf"])
        .env("TCPTRACE_BPF_OBJECT", &built.bpf_object);
    workspace::compile_for(&mut cargo, built.target);
    cargo
}
