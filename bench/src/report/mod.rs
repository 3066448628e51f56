//! Trials to Markdown.

mod turns;

use std::fmt::Write as _;
use std::time::Duration;

use crate::tool::{Prints, Tool};
use crate::trial::{Promptness, Sample};

pub(crate) use turns::turns;

/// All trials of one tool with one load, round by round.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Which tool
    pub(crate) tool: Tool,
    /// Its trials, one for each round; none where it failed
    pub(crate) samples: Vec<Option<Sample>>,
}

/// Several tools with one load.
#[derive(Clone, Debug)]
pub(crate) struct Comparison {
    /// What the load was
    pub(crate) load: String,
    /// One for each tool
    pub(crate) series: Vec<Series>,
}

/// The middle one, and the least and greatest.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| !value.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => f64::midpoint(values[middle - 1], values[middle]),
        };
        Some(Self {
            median,
            least: values[0],
            most: values[values.len() - 1],
        })
    }

    /// Whether a difference to the same is nothing among these, which are differences of equals.
    fn reaches(&self, difference: f64) -> bool {
        difference.abs() <= self.most.abs().max(self.least.abs())
    }
}

/// `median [least-most]`, or a dash.
fn spread(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    Spread::of(values).map_or_else(dash, |of| {
        format!(
            "{:.digits$} [{:.digits$}-{:.digits$}]",
            of.median, of.least, of.most
        )
    })
}

/// The median, or a dash.
fn middle(values: impl IntoIterator<Item = f64>, digits: usize) -> String {
    Spread::of(values).map_or_else(dash, |of| format!("{:.digits$}", of.median))
}

fn dash() -> String {
    "-".to_owned()
}

impl Series {
    /// The trials that there are.
    fn each(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().flatten()
    }

    fn values<'a>(&'a self, of: impl Fn(&Sample) -> f64 + 'a) -> impl Iterator<Item = f64> + 'a {
        self.each().map(of)
    }

    /// What `of` makes of a trial and the one of `base` in the same round.
    fn beside<'a>(
        &'a self,
        base: &'a Self,
        of: impl Fn(&Sample, &Sample) -> f64 + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        let rounds = self.samples.iter().zip(&base.samples);
        rounds.filter_map(move |pair| match pair {
            (Some(own), Some(base)) => Some(of(own, base)),
            _ => None,
        })
    }
}

impl Comparison {
    fn base(&self) -> Option<&Series> {
        self.named("none")
    }

    fn named(&self, name: &str) -> Option<&Series> {
        self.series.iter().find(|series| series.tool.name == name)
    }
}

/// Time that the load and the tool together spend more on a transition than without any tool, µs.
fn added_with_agent(own: &Sample, base: &Sample) -> f64 {
    added(own, base) + own.agent_s
}

/// Time that the load spends more on a transition than without any tool, µs.
fn added(own: &Sample, base: &Sample) -> f64 {
    (own.load_us - base.load_us) / 10.0
}

/// Everything about one load at full speed.
pub(crate) fn speed(comparison: &Comparison) -> String {
    let mut text = table(&[
        "tool",
        "1000 conn/s",
        "× none",
        "connect p50 µs",
        "p99 µs",
        "load µs/conn",
        "added µs/transition",
        "agent CPU s/1M",
        "added, with agent",
        "peak RSS MiB",
        "maps MiB",
        "SIGINT to exit ms",
        "lost, by its own account",
    ]);
    let Some(base) = comparison.base() else {
        return text;
    };
    for series in &comparison.series {
        let runs = series.tool.runs();
        let of_tool = |cell: String| if runs { cell } else { dash() };
        row(
            &mut text,
            &[
                series.tool.name.to_owned(),
                spread(series.values(|sample| sample.throughput / 1e3), 1),
                middle(
                    series.beside(base, |own, base| own.throughput / base.throughput),
                    2,
                ),
                middle(series.values(|sample| sample.p50_us), 0),
                spread(series.values(|sample| sample.p99_us), 0),
                spread(series.values(|sample| sample.load_us), 0),
                spread(series.beside(base, added), 2),
                of_tool(spread(series.values(|sample| sample.agent_s), 3)),
                of_tool(middle(series.beside(base, added_with_agent), 2)),
                of_tool(middle(series.values(|sample| sample.rss_mib), 0)),
                of_tool(middle(series.values(|sample| sample.map_mib), 1)),
                of_tool(middle(series.values(|sample| sample.exit_ms), 0)),
                admitted(series).map_or_else(dash, |lost| lost.to_string()),
            ],
        );
    }
    text
}

/// tcptrace as multiples of the floor.
pub(crate) fn against_floor(comparison: &Comparison) -> String {
    let mut text = table(&["figure", "of", "beside", "ratio"]);
    let Some(base) = comparison.base() else {
        return text;
    };
    let mut compare = |figure: &str, own: &str, floor: &str, of: fn(&Sample, &Sample) -> f64| {
        let (Some(own), Some(floor)) = (comparison.named(own), comparison.named(floor)) else {
            return;
        };
        let medians = (
            Spread::of(own.beside(base, of)),
            Spread::of(floor.beside(base, of)),
        );
        if let (Some(mine), Some(least)) = medians {
            let again = comparison.named("none-2");
            let noise = again.and_then(|again| Spread::of(again.beside(base, of)));
            let ratio = if figure.starts_with("added")
                && noise.is_some_and(|noise| noise.reaches(least.median))
            {
                format!(
                    "{:.2} beside {:.2}, which is within the noise",
                    mine.median, least.median
                )
            } else {
                format!("{:.2}", mine.median / least.median)
            };
            let cells = [figure, own.tool.name, floor.tool.name, &ratio].map(str::to_owned);
            row(&mut text, &cells);
        }
    };
    let throughput = |own: &Sample, base: &Sample| own.throughput / base.throughput;
    let agent = |own: &Sample, _base: &Sample| own.agent_s;
    for [own, floor] in [
        ["tcptrace --json", "floor-ring-lazy"],
        ["floor-hooks", "floor-ring-lazy"],
        ["tcptrace --json", "floor-hooks"],
    ] {
        compare("throughput", own, floor, throughput);
    }
    compare("added", "tcptrace --json", "floor-print", added);
    compare(
        "added, with agent",
        "tcptrace --json",
        "floor-print",
        added_with_agent,
    );
    compare("added", "tcptrace -p IDLE", "floor-empty", added);
    compare("agent CPU", "tcptrace --json", "floor-print", agent);
    compare("agent CPU", "tcptrace", "floor-print", agent);
    compare("agent CPU", "tcptrace -s", "floor-print", agent);
    compare("agent CPU", "tcptrace -p IDLE", "floor-print", agent);
    text
}

/// What the kernel counts of the programs.
pub(crate) fn programs(comparison: &Comparison) -> String {
    let mut text = table(&[
        "tool",
        "ns/transition",
        "runs/transition",
        "ns/run",
        "recursion misses",
    ]);
    for series in comparison.series.iter().filter(|series| series.tool.runs()) {
        row(
            &mut text,
            &[
                series.tool.name.to_owned(),
                spread(series.values(|sample| sample.bpf_ns), 0),
                middle(series.values(|sample| sample.runs), 2),
                middle(series.values(|sample| sample.bpf_ns / sample.runs), 0),
                series
                    .each()
                    .map(|sample| sample.misses)
                    .sum::<u64>()
                    .to_string(),
            ],
        );
    }
    text
}

/// What a tool says it has lost in all its trials; none if it said nothing of losses.
fn admitted(series: &Series) -> Option<u64> {
    let each = series.each().filter_map(|sample| sample.admitted);
    each.reduce(|a, b| a + b)
}

/// Lines to a file beside the kernel's count, load by load.
pub(crate) fn losses(comparisons: &[Comparison]) -> String {
    let mut text = table(&[
        "load",
        "tool",
        "reported",
        "to be reported",
        "lost %",
        "lost, by its own account",
        "recursion misses",
        "agent CPU s/1M",
        "peak RSS MiB",
    ]);
    for comparison in comparisons {
        for series in &comparison.series {
            let sum = |of: fn(&Sample) -> u64| series.each().map(of).sum::<u64>();
            let (reported, expected) =
                (sum(|sample| sample.reported), sum(|sample| sample.expected));
            let lines = series.tool.prints != Prints::Nothing;
            let lost = percent(expected.saturating_sub(reported), expected);
            row(
                &mut text,
                &[
                    comparison.load.clone(),
                    series.tool.name.to_owned(),
                    reported.to_string(),
                    expected.to_string(),
                    if lines { lost } else { dash() },
                    admitted(series).map_or_else(dash, |lost| lost.to_string()),
                    sum(|sample| sample.misses).to_string(),
                    middle(series.values(|sample| sample.agent_s), 3),
                    middle(series.values(|sample| sample.rss_mib), 0),
                ],
            );
        }
    }
    text
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no number here is anywhere near 2^53"
)]
fn percent(part: u64, of: u64) -> String {
    match of {
        0 => dash(),
        _ => format!("{:.3}", part as f64 / of as f64 * 100.0),
    }
}

/// Beside connections that stay open.
pub(crate) fn idle(comparisons: &[Comparison]) -> String {
    let mut text = table(&[
        "open",
        "tool",
        "1000 conn/s",
        "load µs/conn",
        "agent CPU s/1M",
        "BPF ns/transition",
        "peak RSS MiB",
        "maps MiB",
    ]);
    for comparison in comparisons {
        for series in &comparison.series {
            let of_tool = |cell: String| {
                if series.tool.runs() { cell } else { dash() }
            };
            row(
                &mut text,
                &[
                    comparison.load.clone(),
                    series.tool.name.to_owned(),
                    spread(series.values(|sample| sample.throughput / 1e3), 1),
                    spread(series.values(|sample| sample.load_us), 0),
                    of_tool(spread(series.values(|sample| sample.agent_s), 3)),
                    of_tool(spread(series.values(|sample| sample.bpf_ns), 0)),
                    of_tool(middle(series.values(|sample| sample.rss_mib), 0)),
                    of_tool(middle(series.values(|sample| sample.map_mib), 1)),
                ],
            );
        }
    }
    text
}

/// How soon each shows something.
pub(crate) fn promptness(tools: &[(Tool, Vec<Promptness>)]) -> String {
    let mut text = table(&[
        "tool",
        "start to first line ms",
        "SIGINT to exit ms",
        "one connection to its line ms",
    ]);
    for (tool, trials) in tools {
        let each = || trials.iter();
        let ms = |took: Duration| took.as_secs_f64() * 1e3;
        row(
            &mut text,
            &[
                tool.name.to_owned(),
                spread(each().filter_map(|trial| trial.first).map(ms), 0),
                spread(each().map(|trial| ms(trial.exit)), 0),
                spread(each().filter_map(|trial| trial.quiet).map(ms), 1),
            ],
        );
    }
    text
}

fn table(columns: &[&str]) -> String {
    let mut text = String::new();
    row(
        &mut text,
        &columns.iter().map(ToString::to_string).collect::<Vec<_>>(),
    );
    row(&mut text, &vec!["---".to_owned(); columns.len()]);
    text
}

fn row(text: &mut String, cells: &[String]) {
    // A String takes all that is written to it.
    let _written = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(spread([4.0, 1.0, 3.0, 2.0], 1), "2.5 [1.0-4.0]");
        assert_eq!(spread([3.0, 1.0, 2.0], 0), "2 [1-3]");
        assert_eq!(spread([], 0), "-");
    }
}
