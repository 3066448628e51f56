//! `docs/kernels.md`, from what the guests said alone.

use std::collections::BTreeSet;

use super::run::{Fact, Run};

const HEAD: &str = "\
# Kernels

What `tcptrace check` says on Debian's cloud kernels, written by `cargo xtask vm --write-docs`. Ask
it on your own kernel too.

CI runs the kernel tests on its own kernel, and the short ones of them on 5.10 and the newest
(`cargo xtask vm --smoke`). All of them run on all of these kernels before a release. This file is
written by such a run, if no test fails.
";

/// Fact by kernel, then hook by kernel. `day`: of the run.
pub(super) fn text(runs: &[Run], day: &str) -> String {
    let names: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| &run.facts)
        .map(|fact| fact.name.as_str())
        .collect();
    let known = names.iter().map(|name| {
        let quality = |run| fact(run, name).map_or("missing", |fact| fact.quality.as_str());
        row(name, runs.iter().map(quality))
    });
    let hooks = names.iter().flat_map(|name| hooks(runs, name));
    let sections = [
        vec![HEAD.to_owned()],
        vec![format!("The last one was on {day}:\n"), head("", runs)],
        vec![
            row("kernel tests", runs.iter().map(Run::counts)),
            String::new(),
        ],
        vec!["## What is known\n".to_owned(), head("Fact", runs)],
        known.collect(),
        notes(runs),
        vec!["\n## By which hook\n".to_owned(), head("Hook", runs)],
        hooks.collect(),
        kinds(runs),
    ];
    sections.concat().join("\n") + "\n"
}

fn fact<'run>(run: &'run Run, name: &str) -> Option<&'run Fact> {
    run.facts.iter().find(|fact| fact.name == name)
}

/// Each hook that gives a fact, and where.
fn hooks(runs: &[Run], name: &str) -> Vec<String> {
    let mechanisms: BTreeSet<&str> = runs
        .iter()
        .filter_map(|run| fact(run, name))
        .map(|fact| fact.mechanism.as_str())
        .collect();
    mechanisms
        .into_iter()
        .map(|mechanism| {
            let cells = runs.iter().map(|run| match fact(run, name) {
                Some(fact) if fact.mechanism == mechanism => "yes",
                _ => "",
            });
            row(&format!("{name}: `{mechanism}`"), cells)
        })
        .collect()
}

/// How well the facts are known that depend on the kind of hook, if only one kind is to be had;
/// nothing at all if nobody asked.
fn kinds(runs: &[Run]) -> Vec<String> {
    let mut kinds: Vec<&str> = Vec::new();
    for (kind, _) in runs.iter().flat_map(|run| &run.kinds) {
        if !kinds.contains(&kind.as_str()) {
            kinds.push(kind);
        }
    }
    let names: BTreeSet<&str> = runs.iter().flat_map(depending).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![
        "\n## With one kind of hook alone\n".to_owned(),
        "What depends on the kind of hook that the kernel offers. The first that attaches is used.\n"
            .to_owned(),
        head("Fact, by hook", runs),
    ];
    let mut notes = BTreeSet::new();
    for name in names {
        for kind in &kinds {
            let cells = runs.iter().map(|run| {
                let fact = by_kind(run, kind, name);
                fact.map_or("", |fact| fact.quality.as_str())
            });
            lines.push(row(&format!("{name}, by {kind}"), cells));
            let facts = runs.iter().filter_map(|run| by_kind(run, kind, name));
            notes.extend(facts.filter_map(|fact| Some((name, *kind, fact.note.as_deref()?))));
        }
    }
    lines.push("\nWhat is missing then:\n".to_owned());
    let notes = notes.into_iter();
    lines.extend(notes.map(|(name, kind, note)| format!("- {name}, by {kind}: {note}")));
    lines
}

/// The facts for which the kinds of hooks differ.
fn depending(run: &Run) -> Vec<&str> {
    let Some((_, first)) = run.kinds.first() else {
        return Vec::new();
    };
    let differs = |fact: &&Fact| run.kinds.iter().any(|(_, facts)| !facts.contains(fact));
    first
        .iter()
        .filter(differs)
        .map(|fact| fact.name.as_str())
        .collect()
}

fn by_kind<'run>(run: &'run Run, kind: &str, name: &str) -> Option<&'run Fact> {
    let (_, facts) = run.kinds.iter().find(|(other, _)| other == kind)?;
    facts.iter().find(|fact| fact.name == name)
}

/// Nothing at all if every fact is exact.
fn notes(runs: &[Run]) -> Vec<String> {
    let notes: BTreeSet<(&str, &str)> = runs
        .iter()
        .flat_map(|run| &run.facts)
        .filter_map(|fact| Some((fact.name.as_str(), fact.note.as_deref()?)))
        .collect();
    let title =
        (!notes.is_empty()).then(|| "\nWhat is missing of a fact known in part:\n".to_owned());
    let notes = notes
        .into_iter()
        .map(|(name, note)| format!("- {name}: {note}"));
    title.into_iter().chain(notes).collect()
}

fn head(first: &str, runs: &[Run]) -> String {
    let machines = runs.iter().map(|run| run.machine.as_str());
    let rule = runs.iter().map(|_| "---");
    row(first, machines) + "\n" + &row("---", rule)
}

fn row<Cell: AsRef<str>>(first: &str, cells: impl IntoIterator<Item = Cell>) -> String {
    let cells = cells
        .into_iter()
        .map(|cell| format!(" {} |", cell.as_ref()));
    format!("| {first} |{}", cells.collect::<String>())
}
