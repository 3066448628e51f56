//! Metrics as text: `OpenMetrics` 1.0 and the format that Prometheus had before it.
//!
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>,
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::Write as _;

use super::metrics::{Family, Kind, Value};

/// The two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// `OpenMetrics` 1.0.0
    OpenMetrics,
    /// The classic text format, 0.0.4
    Classic,
}

impl Exposition {
    /// What the reader asks for: `OpenMetrics` if its `Accept` header names it, and does not rule it out.
    pub fn accepted(accept: &str) -> Self {
        let wants = accept.split(',').any(|range| {
            let mut parts = range.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text")
                && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if wants {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// Of the answer.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The whole text.
    pub fn render(self, families: &[Family]) -> String {
        let mut text = String::with_capacity(16 << 10);
        for family in families {
            self.family(family, &mut text);
        }
        if self == Self::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn family(self, family: &Family, text: &mut String) {
        let mut name = family.name.replace('.', "_");
        if let Some((suffix, _)) = family.unit
            && !name.ends_with(suffix)
        {
            name.push_str(suffix);
        }
        let sample = match family.kind {
            Kind::Counter => format!("{name}_total"),
            Kind::Info => format!("{name}_info"),
            Kind::Gauge | Kind::Histogram => name.clone(),
        };
        let (described, kind) = match (self, family.kind) {
            (Self::OpenMetrics, Kind::Counter) => (&name, "counter"),
            (Self::OpenMetrics, Kind::Info) => (&name, "info"),
            (Self::Classic, Kind::Counter) => (&sample, "counter"),
            (Self::Classic, Kind::Info) => (&sample, "gauge"),
            (_, Kind::Gauge) => (&name, "gauge"),
            (_, Kind::Histogram) => (&name, "histogram"),
        };
        // Writing to memory does not fail.
        let _infallible = writeln!(text, "# HELP {described} {}", family.help);
        let _infallible = writeln!(text, "# TYPE {described} {kind}");
        if let (Self::OpenMetrics, Some((suffix, _))) = (self, family.unit) {
            let unit = suffix.trim_start_matches('_');
            let _infallible = writeln!(text, "# UNIT {described} {unit}");
        }
        for (labels, value) in &family.points {
            let labels = render_labels(labels);
            match value {
                Value::Number(number) => push_sample(text, &sample, &labels, number),
                Value::Level(level) => push_sample(text, &sample, &labels, level),
                Value::Histogram(histogram) => {
                    let mut below = 0;
                    for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
                        below += count;
                        // OpenMetrics writes floats so that they are no integers.
                        let le = format!("le=\"{bound:?}\"");
                        let le = join(&labels, &le);
                        push_sample(text, &format!("{name}_bucket"), &le, below);
                    }
                    let count = histogram.count();
                    let le = join(&labels, "le=\"+Inf\"");
                    push_sample(text, &format!("{name}_bucket"), &le, count);
                    push_sample(text, &format!("{name}_sum"), &labels, histogram.sum_s());
                    push_sample(text, &format!("{name}_count"), &labels, count);
                }
            }
        }
    }
}

fn push_sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _infallible = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

fn join(labels: &str, label: &str) -> String {
    if labels.is_empty() {
        label.to_owned()
    } else {
        format!("{labels},{label}")
    }
}

fn render_labels(labels: &[(&'static str, String)]) -> String {
    let mut text = String::new();
    for (nth, (name, value)) in labels.iter().enumerate() {
        if nth > 0 {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::metrics::{Heard, Metrics};

    #[test]
    fn what_a_reader_accepts() {
        use Exposition::{Classic, OpenMetrics};
        for (accept, exposition) in [
            ("", Classic),
            ("*/*", Classic),
            ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Classic),
            (
                "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0,text/plain", Classic),
        ] {
            assert_eq!(Exposition::accepted(accept), exposition, "{accept}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let labels = [("a", "x\"y\\z\n".to_owned()), ("b", String::new())];
        assert_eq!(render_labels(&labels), r#"a="x\"y\\z\n",b="""#);
    }

    #[test]
    fn both_formats_name_every_family() {
        let metrics = Metrics::new(Heard {
            transitions: true,
            sockets: true,
            max_label_values: 200,
        });
        let families = metrics.families();
        let open_metrics = Exposition::OpenMetrics.render(&families);
        assert!(open_metrics.ends_with("# EOF\n"));
        let classic = Exposition::Classic.render(&families);
        for (text, name) in [
            (&open_metrics, "# TYPE tcptrace_connections counter"),
            (&classic, "# TYPE tcptrace_connections_total counter"),
            (&open_metrics, "# UNIT tcptrace_connect_seconds seconds"),
            (
                &open_metrics,
                "tcptrace_connect_seconds_bucket{le=\"1.0\"} 0",
            ),
            (&classic, "tcptrace_bytes_total{direction=\"sent\"} 0"),
            (&open_metrics, "# TYPE tcptrace_build info"),
            (&classic, "tcptrace_build_info{version="),
        ] {
            assert!(text.contains(name), "{name} is missing: {text}");
        }
    }
}
