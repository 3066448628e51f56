//! The tracer on the real kernel, against ftrace.
//!
//! Every scenario makes its own connections, between processes it knows, in a network namespace
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
mod actor;
mod check;
mod clock;
mod confinement;
mod container;
mod counters;
mod edges;
mod endings;
mod existing;
mod fate;
mod filters;
mod flood;
mod handover;
mod hidden;
mod hostile;
mod leftovers;
mod limits;
mod loopback;
mod loss;
mod mechanisms;
mod netns;
mod outcomes;
mod owners;
mod peer;
mod privileges;
mod process;
mod prompt;
mod reasons;
mod record;
mod refusals;
mod segments;
mod selection;
mod stage;
mod timewait;
mod tracer;
mod truth;
mod wait;
mod wire;

use std::{
    cell::RefCell,
    fs::OpenOptions,
    io::Write as _,
    panic::{self, PanicHookInfo},
    process::ExitCode,
    sync::Mutex,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A scenario that this kernel cannot play, and why.
pub(crate) struct Impossible(pub(crate) String);

type Outcome = Result<(), Impossible>;

/// What scenarios have measured, to be printed when all have ended: a line among the results would
/// tear them apart.
pub(crate) static FIGURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

macro_rules! figure {
    ($($text:tt)*) => {
        $crate::FIGURES.lock().unwrap().push(format!($($text)*))
    };
}

pub(crate) use figure;

#[derive(Clone, Copy)]
enum Scenario {
    Always(fn()),
    WherePossible(fn() -> Outcome),
    /// Also on a kernel that lets nobody trace.
    LockedDown(fn() -> Outcome),
}

use Scenario::{Always, LockedDown, WherePossible};

const SCENARIOS: &[(&str, Scenario)] = &[
    (
        "loopback::read_by_helpers_alone",
        Always(loopback::read_by_helpers_alone),
    ),
    (
        "loopback::three_hundred_connections",
        Always(loopback::three_hundred_connections),
    ),
    (
        "owners::server_blocked_in_accept_before_start",
        Always(owners::server_blocked_in_accept_before_start),
    ),
    ("owners::prefork_workers", Always(owners::prefork_workers)),
    ("owners::reuseport", Always(owners::reuseport)),
    ("owners::threads", Always(owners::threads)),
    (
        "owners::nonblocking_connect",
        Always(owners::nonblocking_connect),
    ),
    ("owners::refused_connect", Always(owners::refused_connect)),
    (
        "owners::socket_used_again",
        Always(owners::socket_used_again),
    ),
    ("owners::fast_open", Always(owners::fast_open)),
    (
        "owners::io_uring_connect",
        WherePossible(owners::io_uring_connect),
    ),
    ("owners::no_port_left", Always(owners::no_port_left)),
    (
        "owners::mptcp_subflow_by_another",
        WherePossible(owners::mptcp_subflow_by_another),
    ),
    (
        "owners::io_uring_accept",
        WherePossible(owners::io_uring_accept),
    ),
    ("owners::never_accepted", Always(owners::never_accepted)),
    (
        "endings::shutdown_before_close",
        Always(endings::shutdown_before_close),
    ),
    (
        "endings::simultaneous_close",
        Always(endings::simultaneous_close),
    ),
    ("endings::reset_by_linger", Always(endings::reset_by_linger)),
    (
        "endings::reset_for_unread_data",
        Always(endings::reset_for_unread_data),
    ),
    ("endings::killed_process", Always(endings::killed_process)),
    (
        "selection::listener_passed_on",
        Always(selection::listener_passed_on),
    ),
    (
        "selection::one_worker_of_two",
        Always(selection::one_worker_of_two),
    ),
    (
        "selection::client_process",
        Always(selection::client_process),
    ),
    ("accepts::against_resets", Always(accepts::against_resets)),
    (
        "accepts::open_connections_in_a_storm",
        Always(accepts::open_connections_in_a_storm),
    ),
    ("loss::full_ring", Always(loss::full_ring)),
    (
        "loss::small_ring_in_a_burst",
        Always(loss::small_ring_in_a_burst),
    ),
    (
        "loss::reader_that_stops_reading",
        Always(loss::reader_that_stops_reading),
    ),
    ("hostile::names_in_json", Always(hostile::names_in_json)),
    (
        "hostile::names_in_a_piped_table",
        Always(hostile::names_in_a_piped_table),
    ),
    (
        "hostile::names_in_a_terminal",
        Always(hostile::names_in_a_terminal),
    ),
    (
        "existing::connections_open_at_start",
        Always(existing::connections_open_at_start),
    ),
    (
        "existing::left_out_on_request",
        Always(existing::left_out_on_request),
    ),
    (
        "existing::waiting_in_the_accept_queue",
        Always(existing::waiting_in_the_accept_queue),
    ),
    ("filters::endpoints", Always(filters::endpoints)),
    ("filters::events", Always(filters::events)),
    ("filters::summary", Always(filters::summary)),
    ("filters::count", Always(filters::count)),
    ("filters::duration", Always(filters::duration)),
    (
        "mechanisms::same_records",
        WherePossible(mechanisms::same_records),
    ),
    (
        "refusals::everything_taken",
        WherePossible(refusals::everything_taken),
    ),
    ("refusals::missing_member", Always(refusals::missing_member)),
    ("refusals::missing_types", Always(refusals::missing_types)),
    ("refusals::hidden_types", Always(refusals::hidden_types)),
    ("refusals::locked_down", LockedDown(refusals::locked_down)),
    (
        "privileges::capabilities_missing",
        Always(privileges::capabilities_missing),
    ),
    (
        "privileges::bpf_and_perfmon_alone",
        Always(privileges::bpf_and_perfmon_alone),
    ),
    (
        "privileges::little_locked_memory",
        Always(privileges::little_locked_memory),
    ),
    (
        "container::pids_of_the_host",
        Always(container::pids_of_the_host),
    ),
    (
        "selection::queue_of_a_neighbour",
        Always(selection::queue_of_a_neighbour),
    ),
    ("existing::not_slow", Always(existing::not_slow)),
    ("process::signals", Always(process::signals)),
    ("process::closed_pipe", Always(process::closed_pipe)),
    (
        "process::no_room_in_the_file",
        Always(process::no_room_in_the_file),
    ),
    (
        "process::fifo_without_reader",
        Always(process::fifo_without_reader),
    ),
    (
        "process::pipe_that_does_not_block",
        Always(process::pipe_that_does_not_block),
    ),
    ("process::rotation", Always(process::rotation)),
    ("process::without_root", Always(process::without_root)),
    ("process::usage", Always(process::usage)),
    (
        "handover::child_closes_for_the_acceptor",
        Always(handover::child_closes_for_the_acceptor),
    ),
    (
        "handover::child_closes_for_the_client",
        Always(handover::child_closes_for_the_client),
    ),
    (
        "prompt::unanswered_connect",
        Always(prompt::unanswered_connect),
    ),
    ("prompt::quiet_line", Always(prompt::quiet_line)),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "peer") {
        return peer::main(&args[2..]);
    }
    let mut arguments = Arguments::from_args();
    if !arguments.list {
        if !rustix::process::geteuid().is_root() {
            eprintln!(
                "the kernel tests trace and make network namespaces, which needs root; \
                 run them through `cargo xtask test`, or with sudo"
            );
            return ExitCode::FAILURE;
        }
        truth::see_lockdown();
        if !is_confidential() {
            truth::prepare();
        }
    }
    // One after the other: several scenarios measure time.
    arguments.test_threads.get_or_insert(1);
    panic::set_hook(Box::new(note_panic));
    let trials = SCENARIOS
        .iter()
        .chain(reasons::SCENARIOS)
        .chain(segments::SCENARIOS)
        .chain(counters::SCENARIOS)
        .chain(timewait::SCENARIOS)
        .chain(flood::SCENARIOS)
        .chain(edges::SCENARIOS)
        .chain(outcomes::SCENARIOS)
        .chain(limits::SCENARIOS)
        .chain(leftovers::SCENARIOS)
        .chain(hidden::SCENARIOS)
        .chain(abuse::SCENARIOS)
        .chain(clock::SCENARIOS)
        .map(|&(name, scenario)| Trial::ignorable_test(name, move || play(name, scenario)))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    for figure in FIGURES.lock().unwrap().iter() {
        eprintln!("{figure}");
    }
    truth::clean_up();
    conclusion.exit_code()
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the message for [`play`], so that it is printed once, and with its place.
fn note_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or_default();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    PANIC.set(Some(format!("{message}\n(at {place})")));
    if std::thread::current().name() != Some("main") {
        eprintln!("{message}\n(at {place})");
    }
}

/// The message of a panic that was caught.
pub(crate) fn last_panic() -> String {
    PANIC.take().unwrap_or_default()
}

/// Whether the kernel lets nobody trace, ftrace included.
fn is_confidential() -> bool {
    refusals::lockdown().as_deref() == Some("confidentiality")
}

fn play(name: &str, scenario: Scenario) -> Result<Completion, Failed> {
    let play = || match scenario {
        Always(_) | WherePossible(_) if is_confidential() => Err(Impossible(
            "this kernel is locked down and lets nobody trace".to_owned(),
        )),
        Always(scenario) => {
            scenario();
            Ok(())
        }
        WherePossible(scenario) | LockedDown(scenario) => scenario(),
    };
    match panic::catch_unwind(play) {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(Impossible(reason))) => Ok(Completion::ignored_with(reason)),
        Err(_) => {
            let why = last_panic();
            note_failure(name, &why);
            Err(why.into())
        }
    }
}

fn note_failure(name: &str, why: &str) {
    if let Some(path) = std::env::var_os("TCPTRACE_TEST_FAILURES") {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{name}: {why}"));
        if let Err(error) = written {
            eprintln!("{}: {error}", path.display());
        }
    }
}
