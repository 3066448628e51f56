//! What was wrong with a soak, and its figures.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{self, ExitStatus};

use anyhow::Result;

use super::Trial;
use crate::checker::{Checker, Numbers};
use crate::maps::Left;

/// Exit status of the tracer when something was lost.
const LOST: i32 = 4;

/// How many records that are left are shown.
const SHOWN: usize = 20;

impl Trial<'_> {
    pub(super) fn check_end(
        &mut self,
        checker: &Checker,
        status: Option<ExitStatus>,
        said: &str,
        said_at_rest: &[String],
    ) {
        let numbers = checker.numbers;
        if numbers.missed > 0 {
            eprintln!(
                "{} records are missing because the kernel showed their transitions to ftrace alone",
                numbers.missed
            );
        }
        self.faults.extend(checker.faults.iter().cloned());
        let unshown = numbers.faults - checker.faults.len() as u64;
        if unshown > 0 {
            self.faults
                .push(format!("and {unshown} more of the stream"));
        }
        let lost =
            numbers.lost + numbers.lost_accepts + numbers.lost_closes + numbers.lost_time_waits;
        let expected = if lost > 0 { LOST } else { 0 };
        if let Some(status) = status
            && status.code() != Some(expected)
        {
            self.faults.push(format!(
                "the tracer ended with {:?}, signal {:?}, in place of {expected}",
                status.code(),
                status.signal()
            ));
        }
        for line in said.lines() {
            let is_summary = line.starts_with("tcptrace: ") && line.ends_with(" lost");
            if !is_summary && !said_at_rest.iter().any(|usual| usual == line) {
                self.faults.push(format!("the tracer said: {line}"));
            }
        }
        if numbers.confirmed == 0 {
            self.faults.push("no owner could be confirmed".to_owned());
        }
    }

    /// The least and the most that the kernel may have reported to the tracer.
    fn happened(&self, after: [u64; 2]) -> [u64; 2] {
        [after[0] - self.before[1], after[1] - self.before[0]]
    }

    pub(super) fn check_count(&mut self, numbers: &Numbers, after: [u64; 2]) {
        let [least, most] = self.happened(after);
        let known = numbers.transitions + numbers.lost;
        if !(least..=most).contains(&known) {
            self.faults.push(format!(
                "the kernel reported {least} to {most} transitions; {} were reported and {} counted as \
                 lost, which makes {known}",
                numbers.transitions, numbers.lost
            ));
        }
    }

    /// `missed`: transitions that the kernel showed to ftrace alone. Nor does it show the end of such a
    /// socket, so its record stays.
    pub(super) fn check_maps(&mut self, left: &Left, missed: u64) {
        for (what, list) in [("left", &left.ours), ("without its socket", &left.astray)] {
            if list.len() as u64 > missed {
                let shown = &list[..list.len().min(5)];
                self.faults.push(format!(
                    "{} records {what} in the maps:\n    {}",
                    list.len(),
                    shown.join("\n    ")
                ));
            }
        }
        for (what, difference) in &left.unbalanced {
            self.faults
                .push(format!("{what}: {difference} of them for good"));
        }
    }

    pub(super) fn report(&self, numbers: &Numbers, after: [u64; 2], left: &Left) {
        let [least, most] = self.happened(after);
        let happened = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        let [first, second] = self.health.halves();
        let entries: Vec<_> = left
            .entries
            .iter()
            .map(|(name, number)| format!("{name} {number}"))
            .collect();
        let rows = [
            ("seed", self.plan.seed.to_string()),
            ("lines", numbers.lines.to_string()),
            ("transitions reported", numbers.transitions.to_string()),
            ("transitions lost", numbers.lost.to_string()),
            ("together", (numbers.transitions + numbers.lost).to_string()),
            ("reported by the kernel", happened),
            ("ends of TIME_WAIT", numbers.time_wait_ends.to_string()),
            (
                "accepts",
                format!(
                    "{}, {} of them reported after what followed",
                    numbers.accepts, numbers.accepts_late
                ),
            ),
            ("closes", numbers.closes.to_string()),
            (
                "lost beside transitions",
                format!(
                    "{} accepts, {} closes, {} ends of TIME_WAIT",
                    numbers.lost_accepts, numbers.lost_closes, numbers.lost_time_waits
                ),
            ),
            ("evidently missing", numbers.gaps.to_string()),
            (
                "owners confirmed",
                format!("{} of {} claims", numbers.confirmed, numbers.claims),
            ),
            ("pids used again", numbers.pids_again.to_string()),
            ("namespaces", self.workloads_begun.to_string()),
            ("disturbances", self.disturbances.done()),
            (
                "memory, halves",
                format!(
                    "{} and {} KiB ({} and {} anonymous)",
                    first.rss_kib, second.rss_kib, first.anon_kib, second.anon_kib
                ),
            ),
            (
                "open files, halves",
                [first, second]
                    .map(|half| half.files.unwrap_or_default().to_string())
                    .join(" and "),
            ),
            ("left in maps, of others too", entries.join(", ")),
            (
                "left in maps, of the soak",
                (left.ours.len() + left.astray.len()).to_string(),
            ),
        ];
        eprintln!();
        for (name, value) in rows {
            eprintln!("{name:<28} {value}");
        }
        for record in left.ours.iter().take(SHOWN) {
            eprintln!("  {record}");
        }
    }
}

/// Children of this process that are still there, as zombies or otherwise.
pub(super) fn children_left() -> Result<Vec<String>> {
    let mut left = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
        let mut words = after_name.unwrap_or_default().split(' ');
        let state = words.next().unwrap_or_default();
        if words.next() == Some(&process::id().to_string()) {
            left.push(format!("a child is left in state {state}: {stat}"));
        }
    }
    Ok(left)
}
