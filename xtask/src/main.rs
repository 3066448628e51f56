//! The project's tasks: `cargo xtask COMMAND`.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod build;
mod call;
mod fuzz;
mod lint;
mod run;
mod test;

use std::process::ExitCode;

use clap::Parser as _;
use toolchain::setup::{self, Found};
use toolchain::workspace;

/// The project's tasks.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Install what the eBPF build needs and this machine lacks
    Setup,
    /// Compile tcptrace into target/release
    Build(build::Args),
    /// Compile tcptrace if needed and run it, as root
    Run(run::Args),
    /// Run all tests; those against the kernel need root
    Test(test::Args),
    /// Run the kernel tests on other kernels, in virtual machines
    Vm(call::Args),
    /// Measure tcptrace beside other tracers and beside none; needs root
    Bench(call::Args),
    /// Feed any bytes to everything that the agent parses
    Fuzz(fuzz::Args),
    /// Trace a long and rough mixture of connections, and check every record; needs root
    Soak(call::Args),
    /// Check formatting, lints and dependencies
    Lint,
}

fn main() -> ExitCode {
    workspace::conclude(&match Task::parse() {
        Task::Setup => setup::setup(Found::Shown),
        Task::Build(args) => build::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => call::run("kernel-vm", &args, &[]),
        // It makes the load itself.
        Task::Bench(args) => call::run("bench", &args, &["--release"]),
        Task::Fuzz(args) => fuzz::run(&args),
        // Fit to read what a tracer writes at full speed.
        Task::Soak(args) => call::run("soak", &args, &["--release"]),
        Task::Lint => lint::run(),
    })
}
