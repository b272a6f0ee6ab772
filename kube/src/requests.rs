//! Requests with limits of rate and time, and their errors.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::time::{Instant, sleep, timeout};

use crate::access::{Cluster, chain};
use crate::bucket::Bucket;

/// Longest text of the API in our errors, in characters: one log line.
const MAX_TEXT: usize = 512;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    /// Too many requests wait for their turn.
    #[error("too many requests to the Kubernetes API are waiting")]
    Busy,
    #[error("the Kubernetes API answered {code} {reason}: {message}")]
    Status { code: u16, reason: String, message: String },
    #[error("the Kubernetes API did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The API could not be asked, or its answer could not be read.
    #[error("the Kubernetes API cannot be reached: {0}")]
    Unreachable(String),
}

impl RequestError {
    /// Status code and reason, for metrics; 0 when no answer came.
    pub(crate) fn code(&self) -> (u16, &str) {
        match self {
            Self::Busy => (0, "Busy"),
            Self::Status { code, reason, .. } => (*code, reason),
            Self::Timeout(_) => (0, "Timeout"),
            Self::Unreachable(_) => (0, "Unreachable"),
        }
    }

    pub(crate) fn is_status(&self, wanted: u16) -> bool {
        self.code().0 == wanted
    }
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::Status {
                code: status.code,
                reason: printable(&status.reason),
                message: printable(&status.message),
            };
        }
        Self::Unreachable(printable(&chain(&error)))
    }
}

/// Requests that share a rate.
#[derive(Debug)]
pub(crate) struct Requests {
    bucket: Option<Mutex<Bucket>>,
    /// Limit of the wait for a request's turn.
    patience: Duration,
    /// Limit of a request after that.
    limit: Duration,
}

impl Requests {
    pub(crate) fn new(cluster: &Cluster, patience: Duration, limit: Duration) -> Self {
        let bucket = cluster.rate.map(|(qps, burst)| Mutex::new(Bucket::new(qps, burst, Instant::now())));
        Self { bucket, patience, limit }
    }

    /// Makes a request at its turn. Cancel safe.
    pub(crate) fn run<T, E: Into<RequestError>>(
        &self,
        request: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, RequestError>> {
        // Boxed before it is part of a future, because requests are large.
        let request = Box::pin(request);
        async move {
            self.turn().await?;
            match timeout(self.limit, request).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(RequestError::Timeout(self.limit)),
            }
        }
    }

    async fn turn(&self) -> Result<(), RequestError> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let wait = bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(Instant::now(), self.patience)
            .ok_or(RequestError::Busy)?;
        sleep(wait).await;
        Ok(())
    }
}

/// Sends JSON and reads JSON. The library's own function logs malformed answers, and
/// the answer to a review repeats the token.
pub(crate) async fn post<T: serde::de::DeserializeOwned>(
    client: &Client,
    path: &'static str,
    content: &impl serde::Serialize,
) -> Result<T, RequestError> {
    let unusable = |error: &dyn std::fmt::Display| RequestError::Unreachable(error.to_string());
    let body = serde_json::to_vec(content).map_err(|error| unusable(&error))?;
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| unusable(&error))?;
    let answer = client.request_text(request).await?;
    serde_json::from_str(&answer).map_err(|error| {
        let place = format!("line {} column {}", error.line(), error.column());
        unusable(&format!("its answer is not what was asked for ({place})"))
    })
}

/// Text of the API as one short line.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_api_becomes_one_short_line() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(printable(&"ü".repeat(10_000)).chars().count(), MAX_TEXT);
    }

    #[test]
    fn a_failure_without_an_answer_has_no_status() {
        assert_eq!(RequestError::Timeout(Duration::from_secs(5)).code(), (0, "Timeout"));
        assert_eq!(
            RequestError::Timeout(Duration::from_millis(5500)).to_string(),
            "the Kubernetes API did not answer within 5.5 s"
        );
    }
}
