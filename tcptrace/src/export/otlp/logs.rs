//! Records as `LogRecord`s.
//!
//! <https://github.com/open-telemetry/opentelemetry-proto>

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceResponse,
    common::v1::{InstrumentationScope, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};
use prost::Message as _;

use super::value::{Attributes, any, attribute, string};
use crate::{
    event::Event,
    sink::{
        End, Lost, Start,
        fields::{self, Kind, Names},
        time::Clock,
    },
};

/// The tags of `ExportLogsServiceRequest.resource_logs` and of `ResourceLogs.scope_logs`: fields 1 and 2, both of
/// the wire type LEN. <https://protobuf.dev/programming-guides/encoding/#structure>
const RESOURCE_LOGS: u8 = 1 << 3 | 2;
const SCOPE_LOGS: u8 = 2 << 3 | 2;

/// What is sent together.
#[derive(Debug)]
pub struct Logs {
    clock: Clock,
    names: Names,
    resource: Resource,
    /// Each as it came: a `ScopeLogs` with that record alone. One after the other they are one with all of them.
    records: Vec<u8>,
    number: usize,
}

impl Logs {
    /// `explain`: whether to say what transitions mean.
    pub fn new(resource: Resource, explain: bool) -> Self {
        Self {
            clock: Clock::default(),
            names: Names {
                explain,
                ..Names::default()
            },
            resource,
            records: Vec::new(),
            number: 0,
        }
    }

    /// How many records have gathered.
    pub const fn len(&self) -> usize {
        self.number
    }

    /// Whether none has.
    pub const fn is_empty(&self) -> bool {
        self.number == 0
    }

    /// The difference between the wall clock and `CLOCK_MONOTONIC`, ns.
    pub const fn set_clock(&mut self, wall_minus_mono_ns: i64) {
        self.clock.set(wall_minus_mono_ns);
    }

    /// The first record.
    pub fn start(&mut self, start: &Start) {
        self.names.reset_reasons.clone_from(&start.reset_reasons);
        self.names.processes = start.processes.clone();
        let mut attributes = Attributes::default();
        fields::start(start, &mut attributes);
        let severity = SeverityNumber::Info;
        self.push(
            Kind::Start,
            start.mono_ns,
            severity,
            attributes,
            "tracing begins",
        );
    }

    /// A record about a connection.
    pub fn event(&mut self, event: &Event) {
        let connection = event.connection();
        let mut attributes = Attributes::default();
        fields::about(connection, &self.names, &mut attributes);
        fields::details(event, &self.names, &mut attributes);
        let (severity, body) = match event {
            Event::Close(close) if close.reason().is_failure() => {
                (SeverityNumber::Warn, close.reason().name())
            }
            Event::Close(close) => (SeverityNumber::Info, close.reason().name()),
            Event::Transition(step) => (SeverityNumber::Info, step.newstate().name()),
            Event::Socket(socket) => (SeverityNumber::Info, socket.state().name()),
            Event::Open(open) => (SeverityNumber::Info, open.state().name()),
            Event::Owner(_) => (SeverityNumber::Info, "owner changed"),
            Event::Listener(_) => (SeverityNumber::Warn, "trouble at a listener"),
            Event::Slow(slow) => (SeverityNumber::Warn, slow.phase().name()),
            Event::Accept(_) => (SeverityNumber::Info, "accepted"),
            Event::Retransmit(_) => (SeverityNumber::Info, "sent again"),
            Event::Reset(reset) => (SeverityNumber::Info, reset.direction().name()),
        };
        self.push(
            Kind::from(event),
            connection.mono_ns(),
            severity,
            attributes,
            body,
        );
    }

    /// A loss.
    pub fn lost(&mut self, lost: &Lost) {
        let mut attributes = Attributes::default();
        fields::lost(lost, &mut attributes);
        let severity = SeverityNumber::Warn;
        self.push(
            Kind::Lost,
            lost.mono_ns,
            severity,
            attributes,
            "records were lost",
        );
    }

    /// The last record.
    pub fn end(&mut self, end: &End) {
        let mut attributes = Attributes::default();
        fields::end(end, &mut attributes);
        self.push(
            Kind::End,
            end.mono_ns,
            SeverityNumber::Info,
            attributes,
            "tracing ends",
        );
    }

    fn push(
        &mut self,
        kind: Kind,
        mono_ns: u64,
        severity: SeverityNumber,
        attributes: Attributes,
        what: &str,
    ) {
        let (second, nanos) = self.clock.wall(mono_ns);
        let time_unix_nano = u64::try_from(second)
            .unwrap_or(0)
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(nanos));
        let record = LogRecord {
            time_unix_nano,
            observed_time_unix_nano: time_unix_nano,
            severity_number: severity.into(),
            // As text readers show it, some show nothing else.
            body: Some(any(string(format!("{}: {what}", kind.name())))),
            attributes: attributes.list,
            event_name: format!("tcptrace.{}", kind.name()),
            ..LogRecord::default()
        };
        let alone = ScopeLogs {
            log_records: vec![record],
            ..ScopeLogs::default()
        };
        self.records.append(&mut alone.encode_to_vec());
        self.number += 1;
    }

    /// Takes what has gathered as the bytes of a request, and how many records are in it.
    pub fn take(&mut self) -> (Vec<u8>, u64) {
        let records = std::mem::take(&mut self.records);
        let number = std::mem::take(&mut self.number) as u64;
        let scope = ScopeLogs {
            scope: Some(scope()),
            ..ScopeLogs::default()
        };
        let resource = ResourceLogs {
            resource: Some(self.resource.clone()),
            ..ResourceLogs::default()
        };
        let scope_logs = field(SCOPE_LOGS, &[&scope.encode_to_vec(), &records]);
        let request = field(RESOURCE_LOGS, &[&resource.encode_to_vec(), &scope_logs]);
        (request, number)
    }
}

/// A field of the wire type LEN that consists of these parts.
fn field(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    /// A tag, and a length at its longest
    const HEAD_BYTES: usize = 11;
    let len = parts.iter().map(|part| part.len()).sum();
    let mut field = Vec::with_capacity(HEAD_BYTES + len);
    field.push(tag);
    // A vector grows: it refuses nothing.
    let _infallible = prost::encode_length_delimiter(len, &mut field);
    for part in parts {
        field.extend_from_slice(part);
    }
    field
}

/// Who says all this.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "tcptrace".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// What an answer says was refused of a request, and why.
pub fn rejected(answer: &[u8]) -> Option<(u64, String)> {
    let partial = ExportLogsServiceResponse::decode(answer)
        .ok()?
        .partial_success?;
    let number = u64::try_from(partial.rejected_log_records).unwrap_or(0);
    (number > 0 || !partial.error_message.is_empty()).then_some((number, partial.error_message))
}

/// This host and this program.
pub fn resource(host: &str, kernel: &str, given: &[(String, String)]) -> Resource {
    let mut attributes = vec![
        ("service.name", "tcptrace".to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("host.name", host.to_owned()),
        ("os.type", "linux".to_owned()),
        ("os.version", kernel.to_owned()),
    ];
    attributes.retain(|(name, _)| given.iter().all(|(known, _)| known != name));
    let attributes = attributes
        .into_iter()
        .map(|(name, value)| attribute(name, string(value)))
        .chain(
            given
                .iter()
                .map(|(name, value)| attribute(name.clone(), Value::StringValue(value.clone()))),
        )
        .collect();
    Resource {
        attributes,
        ..Resource::default()
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;

    use super::*;
    use crate::event::LossCause;

    #[test]
    fn a_request_is_what_the_receiver_decodes() {
        let mut logs = Logs::new(resource("host", "6.1", &[]), false);
        for turn in 1..3 {
            assert!(logs.is_empty());
            for count in 0..200 {
                logs.lost(&Lost::new(LossCause::RingFull, 5, count));
            }
            assert_eq!(logs.len(), 200);
            let (request, number) = logs.take();
            assert_eq!(number, 200, "turn {turn}");
            let request = ExportLogsServiceRequest::decode(&*request).unwrap();
            let [resource_logs] = &request.resource_logs[..] else {
                panic!("{request:?}");
            };
            assert_eq!(resource_logs.resource, Some(resource("host", "6.1", &[])));
            let [scope_logs] = &resource_logs.scope_logs[..] else {
                panic!("{resource_logs:?}");
            };
            assert_eq!(scope_logs.scope, Some(scope()));
            assert_eq!(scope_logs.log_records.len(), 200);
            for (record, count) in scope_logs.log_records.iter().zip(0..) {
                assert_eq!(record.event_name, "tcptrace.lost");
                let count = attribute("tcptrace.count", Value::IntValue(count));
                assert!(record.attributes.contains(&count), "{record:?}");
            }
        }
    }
}
