//! The project's tasks: `cargo xtask COMMAND`.
#![expect(
    clippy::print_stderr,
    reason = "saying what happens is this program's job"
)]

mod bench;
mod bpf_toolchain;
mod build;
mod fuzz;
mod lint;
mod process;
mod run;
mod setup;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::Parser as _;

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
    Vm(vm::Args),
    /// Measure tcptrace beside other tracers and beside none; needs root
    Bench(bench::Args),
    /// Feed any bytes to everything that the agent parses
    Fuzz(fuzz::Args),
    /// Trace a long and rough mixture of connections, and check all that is told; needs root
    Soak(soak::Args),
    /// Check formatting, lints and dependencies
    Lint,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup => setup::setup(setup::Found::Shown),
        Task::Build(args) => build::run(&args),
        Task::Run(args) => run::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Lint => lint::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
