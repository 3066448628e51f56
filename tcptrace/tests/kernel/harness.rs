//! Which tests there are, and which of them run side by side.

use std::{
    cell::{Cell, RefCell},
    cmp::Reverse,
    fs::OpenOptions,
    io::Write as _,
    panic::{self, PanicHookInfo},
    sync::{Mutex, PoisonError, RwLock},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};

use crate::refusals;

/// What this kernel cannot do, and why.
pub(crate) struct Impossible(pub(crate) String);

pub(crate) type Outcome = Result<(), Impossible>;

/// What a test function returns.
pub(crate) trait IntoOutcome {
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Ok(())
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

/// An entry of a module's `TESTS`: [`beside!`] or [`alone!`], and what else is to be known of it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    path: &'static str,
    run: fn() -> Outcome,
    alone: bool,
    waits_s: u16,
    smoke: bool,
    locked_down: bool,
}

/// A test that makes little traffic and measures nothing: others run beside it.
macro_rules! beside {
    ($test:ident) => {
        $crate::harness::Test::new(concat!(module_path!(), "::", stringify!($test)), || {
            $crate::harness::IntoOutcome::into_outcome($test())
        })
    };
}

/// A test that measures time or memory, or that fills a ring or a buffer of ftrace.
macro_rules! alone {
    ($test:ident) => {
        $crate::harness::beside!($test).and_alone()
    };
}

pub(crate) use {alone, beside};

impl Test {
    pub(crate) const fn new(path: &'static str, run: fn() -> Outcome) -> Self {
        Self {
            path,
            run,
            alone: false,
            waits_s: 0,
            smoke: false,
            locked_down: false,
        }
    }

    pub(crate) const fn and_alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// It waits for about this long, and so begins early.
    pub(crate) const fn waits(mut self, seconds: u16) -> Self {
        self.waits_s = seconds;
        self
    }

    /// What it checks depends on the kernel, and it is short: `cargo xtask vm --smoke` runs it.
    pub(crate) const fn smoke(mut self) -> Self {
        self.smoke = true;
        self
    }

    /// Runs also on a kernel that lets nobody trace.
    pub(crate) const fn locked_down(mut self) -> Self {
        self.locked_down = true;
        self
    }

    /// Without the name of the crate.
    fn name(self) -> &'static str {
        self.path.split_once("::").unwrap().1
    }

    fn play(self) -> Result<Completion, Failed> {
        if is_confidential() && !self.locked_down {
            return Ok(Completion::ignored_with(
                "this kernel is locked down and lets nobody trace",
            ));
        }
        PLAYS.set(true);
        let begun = Instant::now();
        let played = panic::catch_unwind(self.run);
        TOOK.lock().unwrap().push((begun.elapsed(), self.name()));
        PLAYS.set(false);
        match played {
            Ok(Ok(())) => Ok(Completion::Completed),
            Ok(Err(Impossible(reason))) => Ok(Completion::ignored_with(reason)),
            Err(_) => {
                let why = last_panic();
                note_failure(self.name(), &why);
                Err(why.into())
            }
        }
    }
}

/// A test that runs alone locks it.
static COMPANY: RwLock<()> = RwLock::new(());

static TOOK: Mutex<Vec<(Duration, &str)>> = Mutex::new(Vec::new());

pub(crate) use testkit::figure;
use testkit::figure::FIGURES;

/// Runs those that the command line asks for: first side by side those that may, then the others,
/// one at a time.
pub(crate) fn run(mut arguments: Arguments, tests: impl Iterator<Item = Test>) -> Conclusion {
    let smoke_alone = std::env::var_os("TCPTRACE_TEST_SMOKE").is_some();
    let mut tests: Vec<Test> = tests.filter(|test| test.smoke || !smoke_alone).collect();
    if !arguments.list {
        tests.sort_by_key(|test| (test.alone, Reverse(test.waits_s)));
    }
    // Most of the time of most tests is spent waiting.
    let side_by_side = 3 * thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(side_by_side);
    panic::set_hook(Box::new(note_panic));
    let trial = |test: Test| {
        let play = move || {
            let _alone;
            let _beside;
            if test.alone {
                _alone = COMPANY.write().unwrap_or_else(PoisonError::into_inner);
            } else {
                _beside = COMPANY.read().unwrap_or_else(PoisonError::into_inner);
            }
            test.play()
        };
        Trial::ignorable_test(test.name(), play)
    };
    let conclusion = libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect());
    for figure in FIGURES.lock().unwrap().iter() {
        eprintln!("{figure}");
    }
    say_slowest();
    conclusion
}

/// Of many tests, those that took longest.
fn say_slowest() {
    const SHOWN: usize = 12;
    let mut took = TOOK.lock().unwrap().clone();
    if took.len() > 1 {
        took.sort_by_key(|(time, _)| Reverse(*time));
        let slowest: Vec<_> = took
            .iter()
            .take(SHOWN)
            .map(|(time, name)| format!("{name} {:.1} s", time.as_secs_f64()))
            .collect();
        eprintln!("the slowest: {}", slowest.join(", "));
    }
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static PLAYS: Cell<bool> = const { Cell::new(false) };
}

/// Keeps the message for [`Test::play`], so that it is printed once, and with its place.
fn note_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or_default();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    PANIC.set(Some(format!("{message}\n(at {place})")));
    if !PLAYS.get() {
        eprintln!("{message}\n(at {place})");
    }
}

/// The message of a panic that was caught.
pub(crate) fn last_panic() -> String {
    PANIC.take().unwrap_or_default()
}

/// Whether the kernel lets nobody trace, ftrace included.
pub(crate) fn is_confidential() -> bool {
    refusals::lockdown().as_deref() == Some("confidentiality")
}

/// For whoever started this, and wants to end with those that failed.
fn note_failure(name: &str, why: &str) {
    if let Some(path) = std::env::var_os("TCPTRACE_TEST_FAILURES") {
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{name}: {why}"));
        if let Err(error) = written {
            eprintln!("{}: {error}", path.display());
        }
    }
}
