//! Tools that took turns beside one load.

use super::{row, table};
use crate::tool::Tool;
use crate::turns::Turns;

/// The mean of what was measured again and again, and its standard error.
#[derive(Clone, Copy, Debug)]
struct Mean {
    mean: f64,
    error: f64,
}

impl Mean {
    #[expect(
        clippy::cast_precision_loss,
        reason = "no number here is anywhere near 2^53"
    )]
    fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let number = values.len() as f64;
        let mean = values.iter().sum::<f64>() / number;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self {
            mean,
            error: (squares / (number - 1.0) / number).sqrt(),
        }
    }

    /// A multiple of another; the errors are taken to be independent.
    fn over(self, other: Self) -> Self {
        let mean = self.mean / other.mean;
        let error = (self.error / self.mean).hypot(other.error / other.mean);
        Self {
            mean,
            error: (mean * error).abs(),
        }
    }

    fn text(self, digits: usize) -> String {
        format!("{:.digits$} ± {:.digits$}", self.mean, self.error)
    }
}

/// Tools that took turns, load by load; the first is none.
pub(crate) fn turns(tools: &[(Tool, Vec<Turns>)]) -> String {
    let mut text = table(&[
        "tool",
        "1000 conn/s",
        "× none",
        "load µs/conn",
        "agent µs/conn",
        "added µs/transition, with agent",
    ]);
    let named = |name: &str| {
        let of_name = tools.iter().find(|(tool, _)| tool.name == name);
        of_name.map(|(_, turns)| turns.as_slice())
    };
    let Some(base) = named("none") else {
        return text;
    };
    let beside = |own: &[Turns], base: &[Turns], of: fn(Turns, Turns) -> f64| {
        Mean::of(own.iter().zip(base).map(|(own, base)| of(*own, *base)))
    };
    let throughput = |own: Turns, base: Turns| own.throughput() / base.throughput();
    let added = |own: Turns, base: Turns| (own.load_us() + own.agent_us() - base.load_us()) / 10.0;
    for (tool, turns) in tools {
        let each = |of: fn(Turns) -> f64| Mean::of(turns.iter().map(|turns| of(*turns)));
        row(
            &mut text,
            &[
                tool.name.to_owned(),
                each(|turns| turns.throughput() / 1e3).text(1),
                beside(turns, base, throughput).text(3),
                each(Turns::load_us).text(1),
                each(Turns::agent_us).text(2),
                beside(turns, base, added).text(2),
            ],
        );
    }
    text += "\n";
    text += &table(&["figure", "of", "beside", "ratio"]);
    for [own, floor] in [
        ["tcptrace --json", "floor-ring-lazy"],
        ["floor-hooks", "floor-ring-lazy"],
        ["tcptrace --json", "floor-hooks"],
        ["tcptrace -p IDLE", "floor-empty"],
    ] {
        if let (Some(mine), Some(least)) = (named(own), named(floor)) {
            let ratio = beside(mine, least, throughput).text(3);
            row(
                &mut text,
                &["throughput", own, floor, &ratio].map(str::to_owned),
            );
        }
    }
    for [own, floor] in [
        ["tcptrace --json", "floor-print"],
        ["floor-hooks", "floor-print"],
        ["tcptrace -p IDLE", "floor-empty"],
    ] {
        if let (Some(mine), Some(least)) = (named(own), named(floor)) {
            let ratio = beside(mine, base, added)
                .over(beside(least, base, added))
                .text(2);
            let figure = "added, with agent";
            row(&mut text, &[figure, own, floor, &ratio].map(str::to_owned));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_has_its_standard_error() {
        assert_eq!(Mean::of([1.0, 2.0, 3.0, 4.0]).text(3), "2.500 ± 0.645");
        assert_eq!(
            Mean {
                mean: 3.0,
                error: 0.3
            }
            .over(Mean {
                mean: 2.0,
                error: 0.0
            })
            .text(2),
            "1.50 ± 0.15"
        );
    }
}
