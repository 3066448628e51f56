//! `cargo xtask test`: everything that is checked by running it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};

use toolchain::build::{self, Built, Profile, Progress, build_kernel_tests, test_command};
use toolchain::setup::{self, Found};
use toolchain::workspace::{self, Outcome};

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests with this in their names
    filter: Option<String>,
    /// Changes nothing: other kernels are `cargo xtask vm`'s
    #[arg(long = "here", hide = true)]
    _here: bool,
}

/// Runs all tests, also after some have failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Shown)?;
    setup::ensure_network_tools()?;
    let built = build::build(Profile::Release, None, Progress::Shown)?;

    let steps = vec![
        ("unit tests", unit_tests(args, &built)),
        ("kernel tests", kernel_tests(args, &built)),
    ];
    eprintln!("\n{} s in all", start.elapsed().as_secs());
    workspace::summarize(steps)
}

fn unit_tests(args: &Args, built: &Built) -> Result<Outcome> {
    eprintln!("\n== unit tests");
    workspace::run(test_command(built).arg("--no-fail-fast").args(&args.filter))
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
    // Said once more in the summary.
    workspace::run(&mut tests).or_else(|error| match fs::read_to_string(&failures)?.trim() {
        "" => Err(error),
        failed => bail!("\n{failed}"),
    })
}
