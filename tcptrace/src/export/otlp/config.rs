//! Where to send, and how: `--otlp` and the environment variables of the OpenTelemetry specification.
//!
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use std::{path::PathBuf, time::Duration};

use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
};

/// Where a collector listens by default.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A `LogRecord` per record
    Logs,
    /// The metrics
    Metrics,
}

impl Signal {
    const fn variable(self) -> &'static str {
        match self {
            Self::Logs => "LOGS",
            Self::Metrics => "METRICS",
        }
    }

    /// Where a collector takes it, below the base URL.
    const fn path(self) -> &'static str {
        match self {
            Self::Logs => "v1/logs",
            Self::Metrics => "v1/metrics",
        }
    }
}

/// Where a signal goes, and how.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Of `http` or `https`, with a host
    pub uri: Uri,
    /// Sent with each request
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether requests are compressed
    pub gzip: bool,
    /// How long one attempt may take
    pub timeout: Duration,
    /// Certificates to trust in place of the system's
    pub certificate: Option<PathBuf>,
    /// Our own certificate and its key
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Everything that the environment says of OTLP.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where records go; none: they are not wanted
    pub logs: Option<Endpoint>,
    /// Where metrics go
    pub metrics: Option<Endpoint>,
    /// Attributes of this host and service: `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SERVICE_NAME`
    pub resource: Vec<(String, String)>,
    /// How often metrics are sent
    pub interval: Duration,
    /// How long records gather
    pub delay: Duration,
    /// How many records a request has at most
    pub batch: usize,
}

impl Config {
    /// `url`: what `--otlp` names; empty: the environment says it. `variable` reads the environment.
    pub fn new(url: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        // An empty variable is one that is not set.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let endpoint = |signal| endpoint(url, signal, &variable);
        let number = |name: &str, default: u64| match variable(name) {
            Some(text) => text
                .trim()
                .parse()
                .map_err(|_not_a_number| format!("{name}={text}: not a number")),
            None => Ok(default),
        };
        let ms = |name, default| number(name, default).map(Duration::from_millis);
        let mut resource = match variable("OTEL_RESOURCE_ATTRIBUTES") {
            Some(text) => pairs("OTEL_RESOURCE_ATTRIBUTES", &text)?,
            None => Vec::new(),
        };
        if let Some(name) = variable("OTEL_SERVICE_NAME") {
            resource.retain(|(known, _)| known != "service.name");
            resource.push(("service.name".to_owned(), name));
        }
        Ok(Self {
            logs: endpoint(Signal::Logs)?,
            metrics: endpoint(Signal::Metrics)?,
            resource,
            interval: ms("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?.max(Duration::from_millis(100)),
            delay: ms("OTEL_BLRP_SCHEDULE_DELAY", 1_000)?,
            batch: usize::try_from(number("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", 512)?.max(1))
                .unwrap_or(512),
        })
    }
}

fn endpoint(
    url: &str,
    signal: Signal,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<Endpoint>, String> {
    let exporter = format!("OTEL_{}_EXPORTER", signal.variable());
    match variable(&exporter).as_deref().map(str::trim) {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(format!("{exporter}={other}: only otlp and none are known")),
    }
    // What is said of one signal goes before what is said of all.
    let either = |what: &str| {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", signal.variable());
        let all = format!("OTEL_EXPORTER_OTLP_{what}");
        variable(&own)
            .map(|value| (own, value))
            .or_else(|| variable(&all).map(|value| (all, value)))
    };
    if let Some((name, protocol)) = either("PROTOCOL")
        && protocol.trim() != "http/protobuf"
    {
        return Err(format!(
            "{name}={protocol}: only http/protobuf is spoken here"
        ));
    }
    let own = variable(&format!(
        "OTEL_EXPORTER_OTLP_{}_ENDPOINT",
        signal.variable()
    ));
    let (text, is_base) = match own {
        _ if !url.is_empty() => (url.to_owned(), true),
        Some(own) => (own, false),
        None => (
            variable("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned()),
            true,
        ),
    };
    let gzip = match either("COMPRESSION") {
        None => false,
        Some((name, value)) => match value.trim() {
            "gzip" => true,
            "none" => false,
            other => return Err(format!("{name}={other}: only gzip and none are known")),
        },
    };
    let timeout = match either("TIMEOUT") {
        None => 10_000,
        Some((name, value)) => value
            .trim()
            .parse()
            .map_err(|_not_a_number| format!("{name}={value}: not a number of milliseconds"))?,
    };
    let headers = match either("HEADERS") {
        None => Vec::new(),
        Some((name, value)) => pairs(&name, &value)?
            .into_iter()
            .map(|(key, value)| header(&key, &value).ok_or(format!("{name}: {key}: not a header")))
            .collect::<Result<_, _>>()?,
    };
    let path = |what| either(what).map(|(_, value)| PathBuf::from(value));
    let client = match (path("CLIENT_CERTIFICATE"), path("CLIENT_KEY")) {
        (None, None) => None,
        (Some(certificate), Some(key)) => Some((certificate, key)),
        _ => {
            let both = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY";
            return Err(format!("{both} go together, and one is missing"));
        }
    };
    Ok(Some(Endpoint {
        uri: uri(&text, is_base.then(|| signal.path()))?,
        headers,
        gzip,
        timeout: Duration::from_millis(timeout),
        certificate: path("CERTIFICATE"),
        client,
    }))
}

/// A URL, and below it the path of a signal.
fn uri(text: &str, below: Option<&str>) -> Result<Uri, String> {
    let text = text.trim();
    let error = |why: &str| format!("{text}: {why}");
    let whole = match below {
        Some(path) => format!("{}/{path}", text.trim_end_matches('/')),
        None => text.to_owned(),
    };
    let uri: Uri = whole
        .parse()
        .map_err(|_not_a_url| error("not a URL; use http://HOST:4318"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(error("not a URL of http or https; use http://HOST:4318")),
    }
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    if uri.host().is_none_or(str::is_empty) {
        return Err(error("names no host; use http://HOST:4318"));
    }
    if authority.contains('@') {
        return Err(error(
            "holds a password; give it as a header, in OTEL_EXPORTER_OTLP_HEADERS",
        ));
    }
    Ok(uri)
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = name.parse().ok()?;
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// `key1=value1,key2=value2`, the values percent-encoded, as W3C Baggage has them.
fn pairs(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            // Never the value in a message: it may be a password.
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| format!("{name}: not of the form key=value,key=value"))?;
            let value = percent_decoded(value.trim())
                .ok_or_else(|| format!("{name}: {}: not percent-encoded UTF-8", key.trim()))?;
            Ok((key.trim().to_owned(), value))
        })
        .collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        Config::new(url, |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    fn uris(url: &str, variables: &[(&str, &str)]) -> [Option<String>; 2] {
        let config = config(url, variables).unwrap();
        [config.logs, config.metrics].map(|endpoint| endpoint.map(|known| known.uri.to_string()))
    }

    #[test]
    fn where_signals_go() {
        let some = |text: &str| Some(text.to_owned());
        let default = [
            "http://localhost:4318/v1/logs",
            "http://localhost:4318/v1/metrics",
        ];
        assert_eq!(uris("", &[]), default.map(some));
        assert_eq!(
            uris(
                "https://c.example/base/",
                &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x")]
            ),
            [
                "https://c.example/base/v1/logs",
                "https://c.example/base/v1/metrics"
            ]
            .map(some)
        );
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x:1"),
            ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://y:2/in?a=b"),
            ("OTEL_METRICS_EXPORTER", "none"),
        ];
        assert_eq!(uris("", &variables), [some("http://y:2/in?a=b"), None]);
    }

    #[test]
    fn what_is_said_of_one_signal_goes_first() {
        let config = config(
            "",
            &[
                ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
                ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", " b = x%20y , c=%3D"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "5"),
                ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "gzip"),
                ("OTEL_SERVICE_NAME", "s"),
                (
                    "OTEL_RESOURCE_ATTRIBUTES",
                    "service.name=t,k8s.node.name=n%C3%A9",
                ),
            ],
        )
        .unwrap();
        let headers = |endpoint: &Endpoint| -> Vec<_> {
            let headers = endpoint.headers.iter();
            headers
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect()
        };
        let (logs, metrics) = (config.logs.unwrap(), config.metrics.unwrap());
        assert_eq!(headers(&logs), ["b: x y", "c: ="]);
        assert_eq!(headers(&metrics), ["a: 1"]);
        assert_eq!(logs.timeout, Duration::from_millis(5));
        assert!(!logs.gzip && metrics.gzip);
        let attributes: Vec<_> = config
            .resource
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(attributes, [("k8s.node.name", "né"), ("service.name", "s")]);
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        for (url, name, value, said) in [
            ("localhost:4318", "", "", "not a URL"),
            ("ftp://x", "", "", "http or https"),
            ("http://u:p@x", "", "", "password"),
            ("", "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
            ("", "OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip"),
            ("", "OTEL_EXPORTER_OTLP_TIMEOUT", "1s", "milliseconds"),
            ("", "OTEL_EXPORTER_OTLP_HEADERS", "secret", "key=value"),
            ("", "OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k", "go together"),
            ("", "OTEL_LOGS_EXPORTER", "console", "otlp and none"),
        ] {
            let why = config(url, &[(name, value)]).unwrap_err();
            assert!(why.contains(said), "{why}");
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
