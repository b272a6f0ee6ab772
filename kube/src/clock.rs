//! The API server's clock.

use std::time::Duration;

use http::header::DATE;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::fmt::rfc2822::DateTimeParser;
use tokio::time::timeout;

use crate::access::{Cluster, chain};
use crate::requests::printable;

/// Limit of the request.
const LIMIT: Duration = Duration::from_secs(5);

impl Cluster {
    /// How far this host's clock is ahead of the API server's, in seconds; negative if it is
    /// behind. From the `Date` of an answer, also of a refusal, so correct to one second.
    /// Cancel safe.
    ///
    /// # Errors
    /// When no answer came within five seconds, or the answer has no date.
    pub async fn clock_ahead(&self) -> Result<i64, String> {
        let request = http::Request::get("/version").body(kube::client::Body::empty());
        let request = request.map_err(|error| error.to_string())?;
        let answer = timeout(LIMIT, Box::pin(self.client.send(request))).await;
        let answer = answer.map_err(|_| format!("the Kubernetes API did not answer within {LIMIT:?}"))?;
        let answer = answer.map_err(|error| printable(&chain(&error)))?;
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
        let date = date.ok_or("the Kubernetes API's answer has no date")?;
        Ok(Timestamp::now().as_second() - date.as_second())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        let date = DateTimeParser::new().parse_timestamp("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(date.as_second(), 784_111_777);
    }
}
