//! What a guest said of its tests.

use std::collections::BTreeMap;

use serde_json::Value;

/// How a test went on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should
    Passed,
    /// The kernel cannot do what it is about; this is why.
    Skipped(String),
    /// What it said
    Failed(String),
}

/// A fact of `tcptrace check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fact {
    /// What is known
    pub(super) name: String,
    /// How well: exact, partial, missing
    pub(super) quality: String,
    /// By which hook
    pub(super) mechanism: String,
    /// What is missing of it
    pub(super) note: Option<String>,
}

/// All of one machine.
#[derive(Debug)]
pub(super) struct Run {
    /// The kernel's version, and what is special about the machine
    pub(super) machine: String,
    /// In the order of the harness
    pub(super) tests: Vec<(String, Outcome)>,
    /// Empty if the kernel cannot be traced on
    pub(super) facts: Vec<Fact>,
    /// What is known by each kind of hook alone
    pub(super) kinds: Vec<(String, Vec<Fact>)>,
    /// How long it took on the host
    pub(super) seconds: u64,
}

impl Run {
    /// From what `init.sh` writes.
    pub(super) fn parse(machine: String, tests: &[&str], said: &str) -> Self {
        let mut outcomes = BTreeMap::new();
        let mut facts = Vec::new();
        let mut kinds = Vec::new();
        let mut test: Option<(&str, Vec<&str>)> = None;
        for line in said.lines() {
            match line.strip_prefix("## ").map(|words| words.split_once(' ')) {
                Some(Some(("check", json))) => facts = parse_facts(json),
                Some(Some(("kind", said))) => kinds.extend(parse_kind(said)),
                Some(Some(("begin", name))) => test = Some((name, Vec::new())),
                Some(Some(("end", status))) => {
                    if let Some((name, output)) = test.take() {
                        let before = outcomes.remove(name);
                        let outcome = match before {
                            Some(failed @ Outcome::Failed(_)) => failed,
                            _ => outcome(name, status, &output),
                        };
                        outcomes.insert(name, outcome);
                    }
                }
                _ => {
                    if let Some((_, output)) = &mut test {
                        output.push(line);
                    }
                }
            }
        }
        if let Some((name, output)) = test {
            outcomes.insert(name, Outcome::Failed(output.join("\n")));
        }
        let tests = tests
            .iter()
            .map(|name| {
                let missing = || Outcome::Failed("not run".to_owned());
                let outcome = outcomes.remove(name).unwrap_or_else(missing);
                ((*name).to_owned(), outcome)
            })
            .collect();
        Self {
            machine,
            tests,
            facts,
            kinds,
            seconds: 0,
        }
    }

    /// Says in the first test that has no outcome why that is so.
    pub(super) fn blame(&mut self, why: &str) {
        let unfinished = self
            .tests
            .iter_mut()
            .rev()
            .find_map(|(_, outcome)| match outcome {
                Outcome::Failed(message) if message != "not run" => Some(message),
                _ => None,
            });
        let first = match unfinished {
            Some(message) => Some(message),
            None => self
                .tests
                .iter_mut()
                .find_map(|(_, outcome)| match outcome {
                    Outcome::Failed(message) => Some(message),
                    _ => None,
                }),
        };
        if let Some(message) = first {
            *message = format!("{why}\n{message}");
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        let failed = |(_, outcome): &(String, Outcome)| matches!(outcome, Outcome::Failed(_));
        self.tests.iter().any(failed)
    }

    /// What the tests said that failed, as much as helps.
    pub(super) fn failures(&self) -> String {
        let failed = |(name, outcome): &(String, Outcome)| match outcome {
            Outcome::Failed(message) => Some(format!("{name}: FAILED\n{}\n\n", beginning(message))),
            Outcome::Passed | Outcome::Skipped(_) => None,
        };
        self.tests.iter().filter_map(failed).collect()
    }

    /// As in `34 passed, 1 skipped, 1 failed`.
    pub(super) fn counts(&self) -> String {
        let count = |fits: fn(&Outcome) -> bool| {
            let outcomes = self.tests.iter().map(|(_, outcome)| outcome);
            outcomes.filter(|outcome| fits(outcome)).count()
        };
        let passed = count(|outcome| *outcome == Outcome::Passed);
        let skipped = count(|outcome| matches!(outcome, Outcome::Skipped(_)));
        let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
        let others = [(skipped, "skipped"), (failed, "failed")];
        let others = others.into_iter().filter(|(number, _)| *number > 0);
        let all: Vec<_> = [(passed, "passed")]
            .into_iter()
            .chain(others)
            .map(|(number, what)| format!("{number} {what}"))
            .collect();
        all.join(", ")
    }
}

/// A kind of hook, and what `tcptrace check` says with that alone.
fn parse_kind(said: &str) -> Option<(String, Vec<Fact>)> {
    let (kind, json) = said.split_once(' ')?;
    Some((kind.to_owned(), parse_facts(json)))
}

fn parse_facts(json: &str) -> Vec<Fact> {
    let report: Value = serde_json::from_str(json).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let facts = report["facts"].as_array().into_iter().flatten();
    facts
        .filter_map(|fact| {
            Some(Fact {
                name: text(&fact["fact"])?,
                quality: text(&fact["quality"])?,
                mechanism: text(&fact["mechanism"])?,
                note: text(&fact["note"]),
            })
        })
        .collect()
}

/// By what the harness prints about one test.
fn outcome(name: &str, status: &str, output: &[&str]) -> Outcome {
    let result = output.iter().find_map(|line| {
        let rest = line.strip_prefix("test ")?.strip_prefix(name)?;
        rest.trim_start().strip_prefix("... ")
    });
    match (status, result) {
        ("0", Some("ok")) => Outcome::Passed,
        ("0", Some(result)) if result.starts_with("ignored") => {
            let reason = result.trim_start_matches("ignored").trim();
            Outcome::Skipped(reason.trim_matches(['(', ')']).to_owned())
        }
        _ => Outcome::Failed(message(name, status, output)),
    }
}

/// What stands below the test's name among the failures, or all there is.
fn message(name: &str, status: &str, output: &[&str]) -> String {
    let heading = format!("---- {name} ----");
    let said = output
        .iter()
        .skip_while(|line| **line != heading)
        .skip(1)
        .take_while(|line| **line != "failures:");
    let mut lines: Vec<&str> = said.copied().collect();
    if lines.is_empty() {
        lines = output.to_vec();
    }
    let text = lines.join("\n").trim().to_owned();
    match status {
        "124" | "137" | "143" => format!("it did not end in time\n{text}"),
        "101" => text,
        _ => format!("{text}\n(status {status})"),
    }
}

/// Some tests list everything they saw; the log has it all.
fn beginning(message: &str) -> String {
    const LINES: usize = 8;
    const WIDTH: usize = 240;
    let mut lines: Vec<String> = message
        .lines()
        .take(LINES)
        .map(|line| format!("    {}", line.chars().take(WIDTH).collect::<String>()))
        .collect();
    if message.lines().count() > LINES {
        lines.push("    ...".to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"## check {"facts":[{"fact":"accept","quality":"exact","mechanism":"fentry/f"}]}
## kind kprobe {"facts":[{"fact":"accept","quality":"partial","mechanism":"kprobe/f","note":"late"}]}
## begin a::passes

running 1 test
test a::passes ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s

## end 0
## begin a::fails

running 1 test
test a::fails ... FAILED

failures:

---- a::fails ----
left is not right
(at x.rs:1:2)


failures:
    a::fails

test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.10s

## end 101
## begin a::skips

running 1 test
test a::skips ... ignored (no io_uring here)

test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.10s

## end 0
## begin a::hangs

running 1 test
"#;

    fn run() -> Run {
        let tests = ["passes", "fails", "skips", "hangs", "never"];
        let tests = tests.map(|name| format!("a::{name}"));
        let tests: Vec<_> = tests.iter().map(String::as_str).collect();
        let mut run = Run::parse("6.12.107".to_owned(), &tests, SAID);
        run.blame("the guest crashed");
        run
    }

    #[test]
    fn outcomes_are_what_the_harness_said() {
        let run = run();
        let outcomes: Vec<_> = run.tests.iter().map(|(_, outcome)| outcome).collect();
        assert_eq!(*outcomes[0], Outcome::Passed);
        assert_eq!(
            *outcomes[1],
            Outcome::Failed("left is not right\n(at x.rs:1:2)".to_owned())
        );
        assert_eq!(
            *outcomes[2],
            Outcome::Skipped("no io_uring here".to_owned())
        );
        assert!(
            matches!(outcomes[3], Outcome::Failed(why) if why.starts_with("the guest crashed"))
        );
        assert_eq!(*outcomes[4], Outcome::Failed("not run".to_owned()));
        assert_eq!(run.counts(), "1 passed, 1 skipped, 3 failed");
    }

    #[test]
    fn one_failure_of_many_runs_is_a_failure() {
        let again = "## begin a::fails\ntest a::fails ... ok\n## end 0\n";
        let run = Run::parse(
            "6.12.107".to_owned(),
            &["a::fails"],
            &format!("{again}{SAID}{again}"),
        );
        assert!(run.has_failed());
        let failures = run.failures();
        assert!(
            failures.starts_with("a::fails: FAILED\n    left is not right\n"),
            "{failures}"
        );
    }

    #[test]
    fn kinds_of_hooks_are_distinguished() {
        let kinds = run().kinds;
        let [(kind, facts)] = &kinds[..] else {
            panic!("{kinds:?}");
        };
        assert_eq!(kind, "kprobe");
        assert_eq!(facts[0].quality, "partial");
        assert_eq!(facts[0].note.as_deref(), Some("late"));
    }
}
