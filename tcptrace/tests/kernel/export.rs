//! Exports beside the output: what they get is what is printed.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value::Value,
};
use prost::Message as _;

use crate::{
    actor::Actor,
    harness::{Test, alone},
    netns::Ip,
    stage::{Exchange, Stage},
    tracer::Tracer,
    wait,
};

pub(crate) const TESTS: &[Test] = &[alone!(beside_the_output), alone!(numbers_alone)];

const CONNECTIONS: usize = 23;
const PATIENCE: Duration = Duration::from_secs(20);

/// Where a process listens, found by its descriptors.
fn listening(pid: u32) -> Option<SocketAddr> {
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, _, "0A", ..] = fields[..] else {
            return None;
        };
        let port = u16::from_str_radix(local.split_once(':')?.1, 16).ok()?;
        let is_ours = inodes.iter().any(|inode| inode == fields[9]);
        is_ours.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    })
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
}

/// The sum of a family's samples whose labels contain all of these.
fn sum(metrics: &str, name: &str, labels: &[&str]) -> f64 {
    metrics
        .lines()
        .filter(|line| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "))
        })
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Of each record that came: its event, and its attributes.
type Kept = Arc<Mutex<Vec<(String, BTreeMap<String, String>)>>>;

/// Takes OTLP logs, and keeps each record's event and attributes that are texts or numbers.
fn receiver(kept: &Kept) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kept = Arc::clone(kept);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, kept) = (stream.unwrap(), Arc::clone(&kept));
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some((path, body)) = request(&mut reader) {
                    if path == "/v1/logs" {
                        keep(&body, &kept);
                    }
                    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(ok).unwrap();
                }
            });
        }
    });
    address
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some((head.split(' ').nth(1).unwrap().to_owned(), body))
}

fn keep(body: &[u8], kept: &Mutex<Vec<(String, BTreeMap<String, String>)>>) {
    let request = ExportLogsServiceRequest::decode(body).unwrap();
    let records = request
        .resource_logs
        .into_iter()
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records);
    for record in records {
        let attributes = record
            .attributes
            .into_iter()
            .filter_map(|attribute| {
                let value = match attribute.value?.value? {
                    Value::StringValue(text) => text,
                    Value::IntValue(number) => number.to_string(),
                    _ => return None,
                };
                Some((attribute.key, value))
            })
            .collect();
        kept.lock().unwrap().push((record.event_name, attributes));
    }
}

/// Counts of the records, of the metrics and of the OTLP receiver are the same.
fn beside_the_output() {
    let kept = Arc::default();
    let otlp = format!("http://{}", receiver(&kept));
    let stage = Stage::open(&[
        "--no-existing",
        "--otlp",
        &otlp,
        "--prometheus",
        "127.0.0.1:0",
    ]);
    let address = wait::poll(PATIENCE, || listening(stage.tracer.pid())).unwrap();
    assert_eq!(get(address, "/healthz").0, 200);
    assert_eq!(get(address, "/readyz").0, 200);
    assert_eq!(get(address, "/nothing").0, 404);
    let mut server = Actor::spawn(&stage.netns, "server");
    let mut client = Actor::spawn(&stage.netns, "client");
    let listener = server.listen(stage.netns.addr(Ip::V4, 0), "");
    for _ in 0..CONNECTIONS {
        Exchange::default().run(&mut client, &mut server, &listener, listener.local);
    }
    // Both ends of each: the client's in TIME_WAIT, the server's closed.
    let both = 2.0 * f64::from(u32::try_from(CONNECTIONS).unwrap());
    let metrics = wait::poll(PATIENCE, || {
        let metrics = get(address, "/metrics").1;
        let of_both = |role| {
            sum(
                &metrics,
                "tcptrace_connections_total",
                &[role, "reason=\"normal\"", "process=\""],
            )
        };
        (of_both("role=\"client\"") + of_both("role=\"server\"") >= both).then_some(metrics)
    });
    let metrics = metrics.unwrap();
    assert!(sum(&metrics, "tcptrace_connect_seconds_count", &[]) >= both / 2.0);
    assert!(sum(&metrics, "tcptrace_accept_wait_seconds_count", &[]) >= both / 2.0);
    let told = stage.end(0, &[]);
    let kept = kept.lock().unwrap();
    for event in ["start", "transition", "accept", "close", "end"] {
        let printed = told.records.of(event).count();
        let name = format!("tcptrace.{event}");
        let sent = kept.iter().filter(|(kind, _)| *kind == name).count();
        assert_eq!(sent, printed, "{event}");
    }
    let closes: BTreeMap<_, _> = kept
        .iter()
        .filter(|(kind, _)| kind == "tcptrace.close")
        .map(|(_, attributes)| (attributes["tcptrace.conn"].as_str(), attributes))
        .collect();
    for record in told
        .ours()
        .iter()
        .filter(|record| record.event() == "close")
    {
        let sent = closes[record.conn()];
        let line = &record.line;
        assert_eq!(
            Some(sent["tcptrace.reason"].as_str()),
            record.text("reason"),
            "{line}"
        );
        assert_eq!(
            sent["network.local.address"],
            record.local().ip().to_string(),
            "{line}"
        );
        assert_eq!(
            sent["process.pid"],
            record.int("pid").unwrap().to_string(),
            "{line}"
        );
    }
}

/// Numbers alone: nothing is printed, and each end of a connection is counted.
fn numbers_alone() {
    let tracer = Tracer::spawn(&["--quiet", "--prometheus", "127.0.0.1:0"]);
    let address = wait::poll(PATIENCE, || {
        listening(tracer.pid()).filter(|address| get(*address, "/readyz").0 == 200)
    });
    let address = address.unwrap();
    let netns = crate::netns::Netns::new();
    let mut server = Actor::spawn(&netns, "server");
    let mut client = Actor::spawn(&netns, "only-here");
    let listener = server.listen("127.0.0.1:0".parse().unwrap(), "");
    for _ in 0..CONNECTIONS {
        Exchange::default().run(&mut client, &mut server, &listener, listener.local);
    }
    let wanted = f64::from(u32::try_from(CONNECTIONS).unwrap());
    let of_ours = |metrics: &str| {
        sum(
            metrics,
            "tcptrace_connections_total",
            &["process=\"only-here\""],
        )
    };
    let metrics = wait::poll(PATIENCE, || {
        let metrics = get(address, "/metrics").1;
        (of_ours(&metrics) >= wanted).then_some(metrics)
    });
    assert!((of_ours(&metrics.unwrap()) - wanted).abs() < 0.5);
    tracer.signal(rustix::process::Signal::TERM);
    let (text, status, stderr) = tracer.wait_text();
    assert_eq!((text.as_str(), status.code()), ("", Some(0)), "{stderr}");
}
