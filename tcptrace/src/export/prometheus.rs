//! Serves `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! Whoever asks gets a copy of the counts: the loop that counts waits for nobody's network.
#![expect(
    clippy::disallowed_types,
    reason = "--prometheus asks for it: exports alone talk to others"
)]

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use super::{exposition::Exposition, metrics::Metrics};
use crate::error::Error;

/// The port, unless another is given.
pub const PORT: u16 = 9435;

/// Connections served at a time; the others wait in the accept queue.
const CONNECTIONS: usize = 32;

/// A request must be here by then.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// And its answer taken by then.
const CONNECTION_TIMEOUT: Duration = Duration::from_mins(1);

/// The counts, shared between who counts and who serves.
pub type Shared = Arc<Mutex<Metrics>>;

/// Whom to serve.
#[derive(Debug)]
pub struct Server {
    listener: std::net::TcpListener,
    address: SocketAddr,
    metrics: Shared,
    ready: Arc<AtomicBool>,
}

/// `ADDR:PORT`, `:PORT`, `PORT` or `ADDR`. The address is loopback unless one is given.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse() {
        return Ok(SocketAddr::new(loopback, port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let host = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse() {
        return Ok(SocketAddr::new(address, PORT));
    }
    let after_host = text
        .strip_prefix("localhost:")
        .and_then(|port| port.parse().ok());
    after_host
        .map(|port| SocketAddr::new(loopback, port))
        .ok_or_else(|| "not an address; use ADDR:PORT as in 127.0.0.1:9435, or a port".to_owned())
}

impl Server {
    /// Listens, so that nobody else takes the port, and answers nobody yet.
    pub fn bind(address: SocketAddr, metrics: Shared) -> Result<Self, Error> {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("--prometheus: cannot listen at {address}"))?;
        listener.set_nonblocking(true).map_err(anyhow::Error::new)?;
        let address = listener.local_addr().map_err(anyhow::Error::new)?;
        Ok(Self {
            listener,
            address,
            metrics,
            ready: Arc::default(),
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Set this once everything is attached: `/readyz` says so.
    pub fn ready(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ready)
    }

    /// Serves from a thread of its own, for as long as the process lives.
    pub fn serve(self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("--prometheus: cannot begin")?;
        let serve = move || {
            let why = runtime.block_on(self.accept());
            log::error!("--prometheus: {why:#}; nothing is served any more");
        };
        thread::Builder::new()
            .name("tcptrace-http".to_owned())
            .spawn(serve)
            .context("cannot start a thread")?;
        Ok(())
    }

    async fn accept(self) -> anyhow::Error {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(why) => return why.into(),
        };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let place = match Arc::clone(&places).acquire_owned().await {
                Ok(place) => place,
                Err(why) => return why.into(),
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(why) => {
                    // Without descriptors, or a peer that has gone already: neither is the end.
                    log::debug!("--prometheus: {why}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (metrics, ready) = (Arc::clone(&self.metrics), Arc::clone(&self.ready));
            tokio::spawn(async move {
                let answer = service_fn(move |request| {
                    let response = answer(&request, &metrics, &ready);
                    async move { Ok::<_, Infallible>(response) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer);
                if let Ok(Err(why)) = tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
                    log::debug!("--prometheus: {why}");
                }
                drop(place);
            });
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Shared,
    ready: &AtomicBool,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get_all(ACCEPT).iter();
            let accept: Vec<_> = accept.filter_map(|value| value.to_str().ok()).collect();
            let exposition = Exposition::accepted(&accept.join(","));
            // Rendered from a copy: whoever counts waits for the copy alone.
            let copy = metrics
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let text = exposition.render(&copy.families());
            let mut response = Response::new(Full::from(text));
            let kind = hyper::header::HeaderValue::from_static(exposition.content_type());
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        "/healthz" => plain(StatusCode::OK, "ok\n"),
        "/readyz" if ready.load(Ordering::Acquire) => plain(StatusCode::OK, "ok\n"),
        "/readyz" => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "not every hook is attached yet\n",
        ),
        _ => plain(StatusCode::NOT_FOUND, "/metrics, /healthz, /readyz\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, address) in [
            ("9000", "127.0.0.1:9000"),
            (":9000", "127.0.0.1:9000"),
            ("0.0.0.0:9000", "0.0.0.0:9000"),
            ("[::]:9000", "[::]:9000"),
            ("::1", "[::1]:9435"),
            ("10.0.0.1", "10.0.0.1:9435"),
            ("localhost:1", "127.0.0.1:1"),
        ] {
            assert_eq!(parse_address(text).unwrap(), address.parse().unwrap());
        }
        for text in ["", "x", "99999", "host:1", "1.2.3:5"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
