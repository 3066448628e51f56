//! What was measured in a virtual machine, as a table.

use std::fmt::Write as _;

use super::guest::{Row, Rows};

/// A step may make nothing dearer by more than this, %.
const TOLERANCE: f64 = 1.0;

/// A row of figures for one connection, ns.
#[derive(Clone, Copy, Debug)]
struct Cost {
    load: f64,
    agent: f64,
    /// With the agent stopped
    stopped: Option<f64>,
}

impl Cost {
    fn of(row: &Row, connections: u32) -> Option<Self> {
        let each = |times: &[u64]| median(times).map(|time| time / f64::from(connections));
        Some(Self {
            load: each(&row.load_ns)?,
            agent: each(&row.agent_ns).unwrap_or(0.0),
            stopped: each(&row.stopped_ns),
        })
    }

    fn both(self) -> f64 {
        self.load + self.agent
    }
}

/// The table of one kernel, with how it compares to `before`.
pub(super) fn table(kernel: &str, rows: &[Row], before: Option<&Rows>, connections: u32) -> String {
    let mut text = format!("### Linux {kernel}\n\n");
    let mut heads = vec![
        "beside the load",
        "kernel ns",
        "agent ns",
        "both",
        "added",
        "× none",
        "× ring",
        "agent stopped ns",
        "start ms",
        "verified instructions",
    ];
    if before.is_some() {
        heads.extend(["both, before", "change %", "verified before"]);
    }
    line(&mut text, heads.iter().map(ToString::to_string));
    line(&mut text, heads.iter().map(|_| "---".to_owned()));
    let cost_of = |name: &str| named(rows, name).and_then(|row| Cost::of(row, connections));
    let bases = [cost_of("none"), cost_of("discard-only ring")];
    for row in rows {
        let Some(cost) = Cost::of(row, connections) else {
            let why = row.failed.as_deref().unwrap_or("not measured");
            line(&mut text, [row.name.clone(), why.replace(['\n', '|'], " ")]);
            continue;
        };
        let mut cells = cells(row, cost, bases);
        if let Some(before) = before {
            cells.extend(comparison(cost, named(before, &row.name), connections));
        }
        line(&mut text, cells);
    }
    text += "\n";
    for row in rows {
        if let Some(complaint) = &row.complaint {
            // A String takes all that is written to it.
            let _written = writeln!(text, "{}: {complaint}\n", row.name);
        }
    }
    text
}

fn named<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

/// What is said of each row, beside the costs of no tool and of the ring.
fn cells(row: &Row, cost: Cost, [none, ring]: [Option<Cost>; 2]) -> Vec<String> {
    let ns = |value: f64| format!("{value:.0}");
    let of_tool = |cell: String| {
        if row.agent_ns.is_empty() {
            dash()
        } else {
            cell
        }
    };
    let times = |base: Option<Cost>| {
        base.map_or_else(dash, |base| format!("{:.3}", cost.both() / base.both()))
    };
    let added = none.map_or_else(dash, |none| ns(cost.both() - none.both()));
    vec![
        row.name.clone(),
        ns(cost.load),
        of_tool(ns(cost.agent)),
        ns(cost.both()),
        of_tool(added),
        times(none),
        times(ring),
        cost.stopped.map_or_else(dash, ns),
        of_tool(format!("{:.0}", milliseconds(row.start_ns))),
        verified(row),
    ]
}

/// What is said of the same row of an earlier tcptrace.
fn comparison(cost: Cost, before: Option<&Row>, connections: u32) -> [String; 3] {
    let earlier = before.and_then(|before| Cost::of(before, connections));
    [
        earlier.map_or_else(dash, |earlier| format!("{:.0}", earlier.both())),
        earlier.map_or_else(dash, |earlier| format!("{:+.2}", change(cost, earlier))),
        before.map_or_else(dash, verified),
    ]
}

/// Kernels before 5.16 do not say it.
fn verified(row: &Row) -> String {
    match row.verified {
        0 => dash(),
        number => number.to_string(),
    }
}

/// The rows in which a connection costs more than it may.
pub(super) fn dearer(kernel: &str, rows: &[Row], before: &Rows, connections: u32) -> Vec<String> {
    let pair = |row: &Row| {
        let earlier = named(before, &row.name)?;
        let change = change(Cost::of(row, connections)?, Cost::of(earlier, connections)?);
        (change > TOLERANCE).then(|| format!("{} on {kernel} ({change:+.2} %)", row.name))
    };
    rows.iter().filter_map(pair).collect()
}

fn change(now: Cost, before: Cost) -> f64 {
    (now.both() / before.both() - 1.0) * 100.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no number here is anywhere near 2^53"
)]
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no number here is anywhere near 2^53"
)]
fn median(times: &[u64]) -> Option<f64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).map(|time| *time as f64)
}

fn dash() -> String {
    "-".to_owned()
}

fn line(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<_> = cells.into_iter().collect();
    // A String takes all that is written to it.
    let _written = writeln!(text, "| {} |", cells.join(" | "));
}
