//! A request to a receiver that may be slow, busy or gone.
//!
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp-response>

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io::Write as _,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use hyper::{
    StatusCode,
    body::Bytes,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::{runtime::Runtime, sync::watch};

use super::config::Endpoint;
use crate::export::{
    Deadline,
    http::{Answer, Client},
};

/// The first wait after a failure; each is twice the one before.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// `Retry-After` is not heeded beyond this: a queue fills meanwhile.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);

/// What an answer says was refused, and why.
type Rejected = fn(&[u8]) -> Option<(u64, String)>;

/// Delivers requests of one signal, one at a time.
pub struct Courier {
    /// In messages
    what: &'static str,
    runtime: Runtime,
    client: Client,
    gzip: bool,
    rejected: Rejected,
    deadline: watch::Receiver<Deadline>,
    is_failing: bool,
}

impl Courier {
    /// Reads the certificates; connects later.
    pub fn new(
        what: &'static str,
        endpoint: &Endpoint,
        rejected: Rejected,
        deadline: watch::Receiver<Deadline>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut headers = HeaderMap::new();
        let protobuf = HeaderValue::from_static("application/x-protobuf");
        headers.insert(CONTENT_TYPE, protobuf);
        let agent = concat!("tcptrace/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if endpoint.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(Self {
            what,
            runtime,
            client: Client::new(endpoint, headers)?,
            gzip: endpoint.gzip,
            rejected,
            deadline,
            is_failing: false,
        })
    }

    /// Delivers a request of so many items, however often that takes, until `until` or the deadline.
    /// Returns how many were not delivered.
    pub fn deliver(&mut self, request: Vec<u8>, items: u64, until: Option<Instant>) -> u64 {
        let body = match self.packed(request) {
            Ok(body) => body,
            Err(why) => {
                log::error!("{}: {why:#}", self.what);
                return items;
            }
        };
        let Self {
            what,
            runtime,
            client,
            rejected,
            deadline,
            is_failing,
            ..
        } = self;
        runtime.block_on(async {
            let mut backoff = BACKOFF_MIN;
            loop {
                let attempt = tokio::select! {
                    answer = client.post(body.clone()) => answer,
                    () = passed(deadline, until) => return items,
                };
                let (why, wait) = match judge(attempt) {
                    Verdict::Delivered(answer) => {
                        if std::mem::take(is_failing) {
                            log::warn!("{what}: delivers again");
                        }
                        let (number, why) = rejected(&answer).unwrap_or_default();
                        if !why.is_empty() || number > 0 {
                            let why = crate::sink::text::escape(why.as_bytes());
                            log::warn!("{what}: the receiver refused {number} of {items}: {why}");
                        }
                        return number.min(items);
                    }
                    Verdict::Refused(why) => {
                        log::warn!("{what}: {items} are refused: {why}");
                        return items;
                    }
                    Verdict::Later(why, wait) => (why, wait),
                };
                let wait = wait.unwrap_or_else(|| jittered(backoff));
                backoff = (2 * backoff).min(BACKOFF_MAX);
                if std::mem::replace(is_failing, true) {
                    log::info!("{what}: {why}; again in {wait:?}");
                } else {
                    log::warn!("{what}: {why}; trying again until it works");
                }
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = passed(deadline, until) => return items,
                }
            }
        })
    }

    fn packed(&self, request: Vec<u8>) -> anyhow::Result<Bytes> {
        if !self.gzip {
            return Ok(request.into());
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(&request)?;
        Ok(packed.finish()?.into())
    }
}

/// What became of an attempt.
enum Verdict {
    /// It is there
    Delivered(Bytes),
    /// It will never be taken
    Refused(String),
    /// It may be taken later: when, if the receiver says so
    Later(String, Option<Duration>),
}

fn judge(attempt: anyhow::Result<Answer>) -> Verdict {
    let answer = match attempt {
        Ok(answer) => answer,
        Err(why) => return Verdict::Later(format!("{why:#}"), None),
    };
    let status = answer.status;
    if status.is_success() {
        return Verdict::Delivered(answer.body);
    }
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let wait = answer.retry_after.map(|wait| wait.min(RETRY_AFTER_MAX));
            Verdict::Later(format!("the receiver answers {status}"), wait)
        }
        status => Verdict::Refused(format!("the receiver answers {status}")),
    }
}

/// Returns at `until`, or when the trace has ended and the time to deliver is over.
async fn passed(deadline: &mut watch::Receiver<Deadline>, until: Option<Instant>) {
    loop {
        let end = match (*deadline.borrow_and_update(), until) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let sleep = async {
            match end {
                Some(end) => tokio::time::sleep_until(end.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => return,
            changed = deadline.changed() => {
                // Who could set it has gone: nothing will be waited for.
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// Between a half and the whole: what fails at many hosts together is not tried again by all together.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let half = wait / 2;
    let part = u32::try_from(random % 1_000).unwrap_or(0);
    half + half * part / 1_000
}
