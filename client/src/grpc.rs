//! Konnectivity's gRPC protocol: `/ProxyService/Proxy` on HTTP/2.
//!
//! The kube-apiserver opens one HTTP/2 connection per dial
//! ([`dial`](fn@crate::dial)); a [`Channel`] carries many dials, each on a stream
//! of its own. Written on plain `h2`: of gRPC only two headers and one length
//! prefix are needed.

mod dialing;

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::driver::Driver;
use crate::endpoint::Endpoint;
use crate::error::DialError;
use crate::options::{Options, Protocol, check_target};

/// Flow-control window of a whole HTTP/2 connection: the largest of RFC 9113
/// section 6.9.1. With a smaller one, streams whose readers stopped could
/// exhaust it for the others. Memory is bounded by the streams' own windows.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Streams a channel may open before the frontend's SETTINGS arrive, and reset
/// streams it remembers. With fewer, the client would be the limit of a load
/// test; a remembered reset costs some hundred bytes.
const MAX_STREAMS: usize = 1 << 16;

/// Dials `target` on a new HTTP/2 connection.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    target: &str,
    options: &Options,
    deadline: Deadline,
) -> Result<Connection, DialError> {
    Channel::open_until(endpoint, options, &deadline).await?.dial_until(target, &deadline).await
}

/// One HTTP/2 connection for many dials. Cheap to clone; the connection ends
/// after the last clone and the last stream are dropped.
#[derive(Debug, Clone)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    driver: Arc<Driver>,
    scheme: &'static str,
    options: Arc<Options>,
}

impl Channel {
    /// Opens the HTTP/2 connection: cleartext on a Unix socket, ALPN `h2` on
    /// TLS. Its dials have the same `options`.
    ///
    /// # Errors
    /// When the frontend cannot be reached, or does not speak HTTP/2. Cancel
    /// safe: the socket closes.
    pub async fn open(endpoint: &Endpoint, options: &Options) -> Result<Self, DialError> {
        Self::open_until(endpoint, options, &Deadline::after(options.timeout)).await
    }

    async fn open_until(
        endpoint: &Endpoint,
        options: &Options,
        deadline: &Deadline,
    ) -> Result<Self, DialError> {
        let socket = endpoint.open(Protocol::Grpc, options, deadline).await?;
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(options.stream_window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(MAX_STREAMS)
            .max_concurrent_reset_streams(MAX_STREAMS)
            .max_local_error_reset_streams(None);
        let handshake = deadline.step("http/2 handshake", builder.handshake(socket)).await?;
        let (requests, connection) = handshake?;
        let (driver, scheme) = (Driver::start(connection), endpoint.scheme());
        Ok(Self { requests, driver, scheme, options: Arc::new(options.clone()) })
    }

    /// Dials `target` on a stream of its own.
    ///
    /// # Errors
    /// As [`dial`](fn@crate::dial). Cancel safe: a dropped dial resets its stream.
    pub async fn dial(&self, target: &str) -> Result<Connection, DialError> {
        check_target(target)?;
        self.dial_until(target, &Deadline::after(self.options.timeout)).await
    }

    async fn dial_until(&self, target: &str, deadline: &Deadline) -> Result<Connection, DialError> {
        let ready = deadline.step("free http/2 stream", self.requests.clone().ready()).await?;
        let answer = dialing::dial(ready?, self.scheme, target);
        let answered = deadline.step("answer to DIAL_REQ", answer).await??;
        answered.into_connection(Arc::clone(&self.driver), &self.options)
    }
}
