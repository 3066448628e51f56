//! An HTTP/1.1 client for one server, over TCP or TLS, on a connection that is kept.
#![expect(
    clippy::disallowed_types,
    reason = "--otlp asks for it: exports alone talk to others"
)]

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::otlp::config::Endpoint;

/// More of an answer is not read.
const ANSWER_BYTES: usize = 64 << 10;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status
    pub status: StatusCode,
    /// How long to wait, if it says so
    pub retry_after: Option<Duration>,
    /// What it said, or the beginning of that
    pub body: Bytes,
}

/// A client of one server.
pub struct Client {
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
    timeout: Duration,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Reads the certificates; connects later. `headers`: sent with each request.
    pub fn new(endpoint: &Endpoint, mut headers: HeaderMap) -> anyhow::Result<Self> {
        let uri = &endpoint.uri;
        let authority = uri.authority().context("the URL names no host")?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let is_tls = uri.scheme_str() == Some("https");
        let tls = if is_tls {
            let name = ServerName::try_from(host.clone()).context("not a host's name")?;
            Some((TlsConnector::from(Arc::new(tls(endpoint)?)), name))
        } else {
            None
        };
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        headers.extend(endpoint.headers.iter().cloned());
        Ok(Self {
            host,
            port: authority
                .port_u16()
                .unwrap_or(if is_tls { 443 } else { 80 }),
            path: uri
                .path_and_query()
                .map_or_else(|| "/".to_owned(), ToString::to_string),
            headers,
            timeout: endpoint.timeout,
            tls,
            connection: None,
        })
    }

    /// Posts, and waits for the answer. A connection on which that failed is not used again.
    pub async fn post(&mut self, body: Bytes) -> anyhow::Result<Answer> {
        let kept = self.connection.take();
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.post_on(kept, body))
            .await
            .map_err(|_elapsed| anyhow!("no answer within {timeout:?}"))?
    }

    async fn post_on(
        &mut self,
        kept: Option<SendRequest<Full<Bytes>>>,
        body: Bytes,
    ) -> anyhow::Result<Answer> {
        // The server may have closed it meanwhile, which nobody could notice.
        if let Some(mut kept) = kept
            && kept.ready().await.is_ok()
            && let Ok(response) = kept.send_request(self.request(body.clone())?).await
        {
            return self.answer(kept, response).await;
        }
        let mut connection = self.connect().await?;
        let response = connection
            .send_request(self.request(body)?)
            .await
            .context("the connection broke off")?;
        self.answer(connection, response).await
    }

    fn request(&self, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = Request::post(&self.path).body(Full::from(body))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    async fn answer(
        &mut self,
        connection: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> anyhow::Result<Answer> {
        let (head, body) = response.into_parts();
        let closes = head
            .headers
            .get(CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
        // The status is the answer. What is said of it beyond a limit is not waited for.
        let body = Limited::new(body, ANSWER_BYTES).collect().await;
        if body.is_ok() && !closes {
            self.connection = Some(connection);
        }
        Ok(Answer {
            status: head.status,
            retry_after: head
                .headers
                .get(RETRY_AFTER)
                .and_then(|value| retry_after(value.to_str().ok()?, SystemTime::now())),
            body: body
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default(),
        })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let (host, port) = (self.host.as_str(), self.port);
        let stream = tokio::net::TcpStream::connect((host, port))
            .await
            .with_context(|| format!("cannot connect to {host} port {port}"))?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .with_context(|| format!("no TLS with {host} port {port}"))?;
                handshake(stream).await
            }
        }
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<SendRequest<Full<Bytes>>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(why) = connection.await {
            log::debug!("--otlp: {why}");
        }
    });
    Ok(sender)
}

/// `Retry-After`: a number of seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text.trim()).ok()?.timestamp();
    let at = SystemTime::from(at);
    Some(at.duration_since(now).unwrap_or_default())
}

fn tls(endpoint: &Endpoint) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &endpoint.certificate {
        for certificate in pem(path)? {
            roots.add(certificate)?;
        }
    } else {
        let system = rustls_native_certs::load_native_certs();
        // Some of them may be of a kind that nobody uses any more.
        let (added, _ignored) = roots.add_parsable_certificates(system.certs);
        if added == 0 {
            let why = system.errors.first().map(|why| format!(": {why}"));
            bail!(
                "no certificates to trust are on this system{}; install ca-certificates, or name a file in \
                 OTEL_EXPORTER_OTLP_CERTIFICATE",
                why.unwrap_or_default()
            );
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match &endpoint.client {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|why| anyhow!("{}: {why}", key.display()))?;
            config.with_client_auth_cert(pem(certificate)?, private)?
        }
    })
}

fn pem(path: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let error = |why: &dyn std::fmt::Display| anyhow!("{}: {why}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|why| error(&why))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|why| error(&why))?;
    if certificates.is_empty() {
        return Err(error(&io::Error::other("no certificate in PEM form in it")));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_to_come_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (text, s) in [
            ("0", Some(0)),
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            assert_eq!(retry_after(text, now), s.map(Duration::from_secs), "{text}");
        }
    }
}
