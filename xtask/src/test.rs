//! `cargo xtask test`: everything that is checked by running it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
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
    /// Stop before the virtual machines: test on the running kernel alone
    #[arg(long)]
    here: bool,
}

/// Runs all tests, also after some have failed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    setup::setup(Found::Shown)?;
    setup::ensure_network_tools()?;
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
        steps.push(("other kernels".to_owned(), other_kernels(args)));
    }
    eprintln!("\n{} s in all", start.elapsed().as_secs());
    workspace::summarize(steps)
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

fn other_kernels(args: &Args) -> Result<Outcome> {
    let program = build::executable("kernel-vm", "kernel-vm", &[])?;
    let mut machines = Command::new(program);
    machines.arg("--usual");
    if let Some(filter) = &args.filter {
        machines.args(["--test", filter]);
    }
    workspace::run(&mut machines)
}
