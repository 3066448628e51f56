//! The tracer on the real kernel, against ftrace.
//!
//! Every test makes its own connections, between processes it knows, in a network namespace
//! of its own, and compares what the tracer says with what ftrace recorded of the same time.
//! Needs root. `TCPTRACE_BIN` names the program under test; `TCPTRACE_TEST_HOOKS` the kinds of
//! accept hooks it may use, as `--hooks` takes them; `TCPTRACE_TEST_FAILURES` a file that failed
//! scenarios are written to as well, so that whoever started this can end with them.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test: a failed expectation ends it, on the spot"
)]

mod abuse;
mod accepts;
mod adversary;
mod clock;
mod command;
mod container;
mod counters;
mod edges;
mod endings;
mod existing;
mod export;
mod fate;
mod filters;
mod filters_owner;
mod flood;
mod handover;
mod harness;
mod healthy;
mod hidden;
mod hostile;
mod leftovers;
mod limits;
mod list;
mod listen;
mod loopback;
mod loss;
mod mechanisms;
mod outcomes;
mod owners;
mod privileges;
mod process;
mod prompt;
mod reasons;
mod recipes;
mod refusals;
mod segments;
mod selection;
mod slow;
mod stage;
mod steering;
mod timewait;
mod wire;
mod wrong_owner;
mod wrong_reason;

use std::process::ExitCode;

use libtest_mimic::Arguments;

use harness::Test;
// By their short names, as everything here uses them.
pub(crate) use testkit::{
    actor, check, confinement, netns, oracle, peer, record, sock_diag, tracer, wait,
};

/// The tests of all modules.
const TESTS: &[&[Test]] = &[
    abuse::TESTS,
    adversary::TESTS,
    accepts::TESTS,
    clock::TESTS,
    command::TESTS,
    container::TESTS,
    counters::TESTS,
    edges::TESTS,
    endings::TESTS,
    existing::TESTS,
    export::TESTS,
    filters::TESTS,
    filters_owner::TESTS,
    flood::TESTS,
    handover::TESTS,
    healthy::TESTS,
    hidden::TESTS,
    hostile::TESTS,
    leftovers::TESTS,
    limits::TESTS,
    list::TESTS,
    list::ages::TESTS,
    list::owners::TESTS,
    list::ss::TESTS,
    listen::TESTS,
    loopback::TESTS,
    loss::TESTS,
    mechanisms::TESTS,
    outcomes::TESTS,
    owners::TESTS,
    privileges::TESTS,
    process::TESTS,
    prompt::TESTS,
    reasons::TESTS,
    recipes::TESTS,
    refusals::TESTS,
    segments::TESTS,
    selection::TESTS,
    slow::TESTS,
    timewait::TESTS,
    timewait::full_list::TESTS,
    timewait::storm::TESTS,
    wrong_owner::TESTS,
    wrong_reason::TESTS,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "peer") {
        return peer::main(&args[2..]);
    }
    if args.get(1).is_some_and(|arg| arg == "dial") {
        return command::dial(&args[2..]);
    }
    let arguments = Arguments::from_args();
    if !arguments.list {
        if !rustix::process::geteuid().is_root() {
            eprintln!(
                "the kernel tests trace and make network namespaces, which needs root; \
                 run them through `cargo xtask test`, or with sudo"
            );
            return ExitCode::FAILURE;
        }
        oracle::see_lockdown();
        if !harness::is_confidential() {
            oracle::prepare();
        }
    }
    let conclusion = harness::run(arguments, TESTS.iter().copied().flatten().copied());
    oracle::clean_up();
    conclusion.exit_code()
}
