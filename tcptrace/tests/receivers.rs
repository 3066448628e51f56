//! OTLP receivers that misbehave, and one that does not.
#![expect(
    clippy::unwrap_used,
    reason = "a failed unwrap fails the test, and says where"
)]

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tcptrace::export::{
    Deadline,
    otlp::{
        config::{Config, Endpoint},
        deliver::Courier,
        logs::rejected,
    },
};
use tokio::sync::watch;

/// A request that came.
struct Received {
    head: String,
    body: Vec<u8>,
}

/// What to do with one request.
enum Answer {
    /// Bytes to answer, and whether to keep the connection
    Say(&'static [u8], bool),
    /// Close without an answer
    HangUp,
    /// Shut down our side, and keep the other open
    HalfClose,
    /// Say nothing, and keep the connection
    Silence,
}

const OK: Answer = Answer::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true);

/// A receiver that answers with these in turn; where it listens, and what came.
fn receiver(answers: Vec<Answer>) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (came, received) = channel();
    thread::spawn(move || serve(&listener, answers, &came));
    (url, received)
}

fn serve(listener: &TcpListener, answers: Vec<Answer>, came: &Sender<Received>) {
    let mut answers = answers.into_iter();
    let mut silent = Vec::new();
    while let Ok((mut stream, _)) = listener.accept() {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(received) = read_request(&mut reader) {
            came.send(received).unwrap();
            let Some(answer) = answers.next() else {
                return;
            };
            match answer {
                Answer::Say(text, keeps) => {
                    stream.write_all(text).unwrap();
                    if !keeps {
                        break;
                    }
                }
                Answer::HangUp => break,
                Answer::HalfClose => {
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    silent.push(stream);
                    break;
                }
                Answer::Silence => {
                    silent.push(stream);
                    break;
                }
            }
        }
    }
}

fn read_request(reader: &mut BufReader<impl Read>) -> Option<Received> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Received { head, body })
}

fn endpoint(url: &str) -> Endpoint {
    Config::new(url, |_| None).unwrap().logs.unwrap()
}

/// A courier, and who may tell it that the time is up.
fn courier(endpoint: &Endpoint) -> (Courier, watch::Sender<Deadline>) {
    let (deadline, told) = watch::channel(None);
    let courier = Courier::new("test", endpoint, rejected, told).unwrap();
    (courier, deadline)
}

fn request(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

#[test]
fn requests_share_a_connection_and_name_what_they_are() {
    let (url, received) = receiver(vec![OK, OK]);
    let mut endpoint = endpoint(&url);
    endpoint
        .headers
        .push(("x-scope".parse().unwrap(), "a b".parse().unwrap()));
    let (mut courier, _open) = courier(&endpoint);
    assert_eq!(courier.deliver(request("one"), 3, None), 0);
    assert_eq!(courier.deliver(request("two"), 3, None), 0);
    for body in ["one", "two"] {
        let came = received.recv().unwrap();
        assert_eq!(came.body, body.as_bytes());
        assert!(
            came.head.starts_with("POST /v1/logs HTTP/1.1\r\n"),
            "{}",
            came.head
        );
        for line in ["content-type: application/x-protobuf", "x-scope: a b"] {
            assert!(came.head.contains(line), "{}", came.head);
        }
    }
}

#[test]
fn gzip_is_said_and_done() {
    let (url, received) = receiver(vec![OK]);
    let mut endpoint = endpoint(&url);
    endpoint.gzip = true;
    let (mut courier, _open) = courier(&endpoint);
    assert_eq!(courier.deliver(request(&"x".repeat(10_000)), 1, None), 0);
    let came = received.recv().unwrap();
    assert!(
        came.head.contains("content-encoding: gzip"),
        "{}",
        came.head
    );
    assert!(came.body.starts_with(&[0x1f, 0x8b]) && came.body.len() < 1_000);
}

#[test]
fn a_receiver_that_is_busy_gets_it_later() {
    let (url, received) = receiver(vec![
        Answer::Say(
            b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        Answer::Say(
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 4\r\n\r\nbusy",
            true,
        ),
        Answer::Say(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", true),
    ]);
    let (mut courier, _open) = courier(&endpoint(&url));
    let begin = Instant::now();
    assert_eq!(courier.deliver(request("it"), 7, None), 0);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let bodies: Vec<_> = (0..3).map(|_| received.recv().unwrap().body).collect();
    assert_eq!(bodies, [b"it", b"it", b"it"]);
}

#[test]
fn a_connection_that_breaks_off_is_made_anew() {
    let (url, received) = receiver(vec![
        Answer::HangUp,
        Answer::HalfClose,
        Answer::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", false),
        // A status is an answer, whatever became of the rest: the next one is another request.
        Answer::Say(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            false,
        ),
        OK,
    ]);
    let (mut courier, _open) = courier(&endpoint(&url));
    for _ in 0..3 {
        assert_eq!(courier.deliver(request("it"), 1, None), 0);
    }
    assert_eq!(received.iter().take(5).count(), 5);
}

#[test]
fn a_receiver_that_says_nothing_is_asked_again() {
    let (url, received) = receiver(vec![Answer::Silence, OK]);
    let mut endpoint = endpoint(&url);
    endpoint.timeout = Duration::from_millis(100);
    let (mut courier, _open) = courier(&endpoint);
    assert_eq!(courier.deliver(request("it"), 1, None), 0);
    assert_eq!(received.iter().take(2).count(), 2);
}

#[test]
fn what_is_refused_is_counted_and_not_sent_again() {
    // ExportLogsServiceResponse { partial_success { rejected_log_records: 2, error_message: "no" } }
    let partial = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n\x0a\x06\x08\x02\x12\x02no";
    let (url, received) = receiver(vec![
        Answer::Say(partial, true),
        Answer::Say(
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        Answer::Say(
            b"HTTP/1.1 301 Moved\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n",
            true,
        ),
        OK,
    ]);
    let (mut courier, _open) = courier(&endpoint(&url));
    let left = [5, 5, 5, 5].map(|items| courier.deliver(request("it"), items, None));
    assert_eq!(left, [2, 5, 5, 0]);
    assert_eq!(received.iter().take(4).count(), 4);
}

#[test]
fn one_that_is_gone_for_good_ends_with_the_deadline() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let (mut courier, deadline) = courier(&endpoint(&url));
    let delivery = thread::spawn(move || courier.deliver(request("it"), 9, None));
    let end = Instant::now() + Duration::from_millis(200);
    deadline.send(Some(end)).unwrap();
    assert_eq!(delivery.join().unwrap(), 9);
    assert!(Instant::now() >= end);
}

/// A receiver behind TLS that wants our certificate; where it listens, and what came.
fn tls_receiver() -> (String, Receiver<Received>) {
    let fixture = |name: &str| fixture(name).into_os_string().into_string().unwrap();
    let certificates = |name| {
        CertificateDer::pem_file_iter(fixture(name))
            .unwrap()
            .map(Result::unwrap)
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            certificates("server.pem").collect(),
            PrivateKeyDer::from_pem_file(fixture("server.key")).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (came, received) = channel();
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut reader = BufReader::new(StreamOwned::new(session, stream));
            // Who does not trust us says so and goes.
            let Some(request) = read_request(&mut reader) else {
                continue;
            };
            let ok = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            reader.get_mut().write_all(ok).unwrap();
            came.send(request).unwrap();
        }
    });
    (url, received)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/tls")
        .join(name)
}

#[test]
fn tls_with_certificates_of_both_sides() {
    let (url, received) = tls_receiver();
    let mut endpoint = endpoint(&url);
    endpoint.certificate = Some(fixture("ca.pem"));
    endpoint.client = Some((fixture("client.pem"), fixture("client.key")));
    let (mut courier, _open) = courier(&endpoint);
    assert_eq!(courier.deliver(request("it"), 1, None), 0);
    assert_eq!(received.recv().unwrap().body, b"it");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_not_taken() {
    let (url, received) = tls_receiver();
    let mut endpoint = endpoint(&url);
    endpoint.certificate = Some(fixture("other-ca.pem"));
    endpoint.client = Some((fixture("client.pem"), fixture("client.key")));
    let (mut courier, _open) = courier(&endpoint);
    let until = Instant::now() + Duration::from_millis(300);
    assert_eq!(courier.deliver(request("it"), 4, Some(until)), 4);
    assert!(received.try_recv().is_err());
}

#[test]
fn certificates_that_cannot_be_read_are_named() {
    let mut endpoint = endpoint("https://127.0.0.1:1");
    for (name, why) in [
        ("nothing.pem", "nothing.pem"),
        ("README.md", "no certificate"),
    ] {
        endpoint.certificate = Some(fixture(name));
        let (_deadline, told) = watch::channel(None);
        let refused = Courier::new("test", &endpoint, rejected, told)
            .err()
            .unwrap();
        assert!(format!("{refused:#}").contains(why), "{refused:#}");
    }
}
