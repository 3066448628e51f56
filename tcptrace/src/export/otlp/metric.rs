//! The metrics as OTLP has them: cumulative since the start.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};
use prost::Message as _;

use super::{
    logs::scope,
    value::{attribute, string},
};
use crate::export::metrics::{Family, Kind, Labels, Value};

/// When the numbers began, and when they are of, ns since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// When counting began
    pub begin_ns: u64,
    /// Now
    pub now_ns: u64,
}

/// The bytes of a request, and how many points are in it.
pub fn encode(families: &[Family], resource: &Resource, span: Span) -> (Vec<u8>, u64) {
    let metrics: Vec<_> = families
        .iter()
        .filter(|family| !family.points.is_empty())
        .map(|family| metric(family, span))
        .collect();
    let number = families.iter().map(|family| family.points.len() as u64);
    let number = number.sum();
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    };
    (request.encode_to_vec(), number)
}

fn metric(family: &Family, span: Span) -> Metric {
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        Kind::Info | Kind::Gauge => Data::Gauge(Gauge {
            data_points: numbers(family, span),
        }),
        Kind::Counter => Data::Sum(Sum {
            data_points: numbers(family, span),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: histograms(family, span),
            aggregation_temporality: temporality,
        }),
    };
    Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: family.unit.map_or("1", |(_, unit)| unit).to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

fn numbers(family: &Family, span: Span) -> Vec<NumberDataPoint> {
    let number = |(labels, value): &(Labels, Value)| {
        let number = match value {
            Value::Number(number) => i64::try_from(*number).unwrap_or(i64::MAX),
            Value::Level(level) => *level,
            Value::Histogram(_) => return None,
        };
        Some(NumberDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: span.begin_ns,
            time_unix_nano: span.now_ns,
            value: Some(number_data_point::Value::AsInt(number)),
            ..NumberDataPoint::default()
        })
    };
    family.points.iter().filter_map(number).collect()
}

fn histograms(family: &Family, span: Span) -> Vec<HistogramDataPoint> {
    let point = |(labels, value): &(Labels, Value)| {
        let Value::Histogram(histogram) = value else {
            return None;
        };
        Some(HistogramDataPoint {
            attributes: attributes(labels),
            start_time_unix_nano: span.begin_ns,
            time_unix_nano: span.now_ns,
            count: histogram.count(),
            sum: Some(histogram.sum_s()),
            bucket_counts: histogram.counts.clone(),
            explicit_bounds: histogram.bounds.to_vec(),
            ..HistogramDataPoint::default()
        })
    };
    family.points.iter().filter_map(point).collect()
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(name, value)| attribute(*name, string(value.clone())))
        .collect()
}

/// What an answer says was refused of a request, and why.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportMetricsServiceResponse::decode(answer)
        .ok()?
        .partial_success?;
    let number = u64::try_from(partial.rejected_data_points).unwrap_or(0);
    (number > 0 || !partial.error_message.is_empty()).then_some((number, partial.error_message))
}
