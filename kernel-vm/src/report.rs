//! One table of what all guests said.

use std::collections::BTreeMap;

use super::run::{Outcome, Run};

/// Test by kernel, then fact by kernel, then the reasons.
pub(super) fn table(runs: &[Run]) -> String {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(runs.iter().map(|run| run.machine.clone()));
    let Some(first) = runs.first() else {
        return String::new();
    };
    for (at, (name, _)) in first.tests.iter().enumerate() {
        let mut row = vec![name.clone()];
        row.extend(runs.iter().map(|run| match run.tests[at].1 {
            Outcome::Passed => "ok".to_owned(),
            Outcome::Skipped(_) => "skipped".to_owned(),
            Outcome::Failed(_) => "FAILED".to_owned(),
        }));
        rows.push(row);
    }
    let mut row = vec!["seconds".to_owned()];
    row.extend(runs.iter().map(|run| run.seconds.to_string()));
    rows.push(row);

    let mut lines = aligned(&rows);
    lines.push(String::new());
    for ((fact, way), machines) in ways(runs) {
        lines.push(format!("{fact}: {way} ({})", machine_list(&machines, runs)));
    }
    for ((reason, machines), names) in skipped(runs) {
        let what = match names[..] {
            [name] => name.to_owned(),
            _ => format!("{} tests", names.len()),
        };
        lines.push(format!(
            "{what}: skipped, {reason} ({})",
            machines.join(" ")
        ));
    }
    lines.join("\n")
}

fn machine_list(machines: &[&str], runs: &[Run]) -> String {
    if runs.len() > 1 && machines.len() == runs.len() {
        return "all".to_owned();
    }
    machines.join(" ")
}

/// In which ways each fact is known, and on which machines.
fn ways(runs: &[Run]) -> BTreeMap<(&str, String), Vec<&str>> {
    let mut ways = BTreeMap::<_, Vec<_>>::new();
    for run in runs {
        for fact in &run.facts {
            let way = format!("{}, by {}", fact.quality, fact.mechanism);
            let machines = ways.entry((fact.name.as_str(), way)).or_default();
            machines.push(run.machine.as_str());
        }
    }
    ways
}

/// Why and on which machines tests were skipped, and which ones.
fn skipped(runs: &[Run]) -> BTreeMap<(&str, Vec<&str>), Vec<&str>> {
    let mut machines = BTreeMap::<(&str, &str), Vec<&str>>::new();
    for run in runs {
        for (name, outcome) in &run.tests {
            if let Outcome::Skipped(reason) = outcome {
                let skipped_on = machines.entry((name, reason)).or_default();
                skipped_on.push(run.machine.as_str());
            }
        }
    }
    let mut skipped = BTreeMap::<_, Vec<_>>::new();
    for ((name, reason), machines) in machines {
        skipped.entry((reason, machines)).or_default().push(name);
    }
    skipped
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let cells: Vec<_> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_tests_facts_and_reasons() {
        let said = "\
## check {\"facts\":[{\"fact\":\"accept\",\"quality\":\"exact\",\"mechanism\":\"fentry/f\"}]}
## begin a::fails
## end 101
## begin a::skips
test a::skips ... ignored (no io_uring here)
## end 0
";
        let tests = ["a::fails", "a::skips"];
        let run = Run::parse("6.12.107".to_owned(), &tests, said);
        let table = table(&[run]);
        assert!(table.contains("a::fails  FAILED\n"), "{table}");
        assert!(table.contains("\naccept: exact, by fentry/f (6.12.107)\n"));
        assert!(table.contains("a::skips: skipped, no io_uring here (6.12.107)"));
    }
}
