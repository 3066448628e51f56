//! `docs/kernels.md`, from results alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

use super::report::{self, Fact, Run};

const HEAD: &str = "\
# Kernels

Written by `cargo xtask vm --write-docs`, which boots Debian's cloud kernels in virtual machines
and runs the kernel tests in them. On your own kernel, ask `tcptrace check`.
";

/// Replaces the file.
pub(super) fn write(path: &Path, runs: &[Run]) -> Result<()> {
    if let Some(run) = runs.iter().find(|run| run.facts.is_empty()) {
        bail!(
            "{} is left as it is: Linux {} knows no facts",
            path.display(),
            run.machine
        );
    }
    fs::write(path, text(runs))?;
    eprintln!("written: {}", path.display());
    Ok(())
}

fn text(runs: &[Run]) -> String {
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
    let results = runs.iter().map(|run| row(&run.machine, [run.counts()]));
    let skipped = report::skipped(runs);
    let skipped = skipped.into_iter().map(|((test, reason), machines)| {
        format!("- `{test}` on {}: {reason}", machines.join(", "))
    });

    let sections = [
        vec![HEAD.to_owned()],
        vec!["## What is known\n".to_owned(), head("Fact", runs)],
        known.collect(),
        titled("\nWhere a fact is known in part:\n", notes(runs)),
        vec!["\n## By which hook\n".to_owned(), head("Hook", runs)],
        hooks.collect(),
        vec!["\n## Tests\n\n| Linux | Result |\n| --- | --- |".to_owned()],
        results.collect(),
        titled("\nSkipped:\n", skipped.collect()),
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

fn notes(runs: &[Run]) -> Vec<String> {
    let notes: BTreeSet<(&str, &str)> = runs
        .iter()
        .flat_map(|run| &run.facts)
        .filter_map(|fact| Some((fact.name.as_str(), fact.note.as_deref()?)))
        .collect();
    notes
        .into_iter()
        .map(|(name, note)| format!("- {name}: {note}"))
        .collect()
}

/// Nothing at all if there are no lines.
fn titled(title: &str, mut lines: Vec<String>) -> Vec<String> {
    if !lines.is_empty() {
        lines.insert(0, title.to_owned());
    }
    lines
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
