//! Konnectivity's gRPC protocol: `/ProxyService/Proxy` on HTTP/2.
//!
//! The kube-apiserver opens one HTTP/2 connection per dial ([`dial`]); a
//! [`Channel`] keeps one for many dials, each on a stream of its own. Written
//! on plain `h2`, because only two headers and one length prefix of gRPC are
//! needed here.

mod dialing;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::driver::Driver;
use crate::{DialError, Endpoint, Options, Protocol, check_target};
pub(crate) use stream::Stream;

/// Window of a whole HTTP/2 connection: the most there is, so that streams
/// whose readers stopped cannot exhaust it for the others. Memory is bounded
/// by the streams' own windows.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Streams a channel may open before the frontend's SETTINGS say how many it
/// wants, and resets it remembers; either would else be a limit of the client.
const MAX_STREAMS: usize = 1 << 16;

/// Dials `target` with the default [`Options`].
///
/// # Errors
/// [`DialError::Refused`] when the frontend refuses; see [`DialError`] for the
/// rest. Cancel safe: a dropped dial closes its connection.
pub async fn dial(endpoint: &Endpoint, target: &str) -> Result<Connection, DialError> {
    dial_with(endpoint, target, &Options::default()).await
}

/// Dials `target` on a new HTTP/2 connection.
///
/// # Errors
/// As [`dial`]. Cancel safe: a dropped dial closes its connection.
pub async fn dial_with(
    endpoint: &Endpoint,
    target: &str,
    options: &Options,
) -> Result<Connection, DialError> {
    check_target(target)?;
    let deadline = Deadline::after(options.timeout);
    let channel = Channel::open_until(endpoint, options, &deadline).await?;
    channel.dial_until(target, &deadline).await
}

/// One HTTP/2 connection for many dials. Cheap to clone; the connection ends
/// when the last clone and the last stream are gone.
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
    /// safe.
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
        let scheme = match endpoint {
            Endpoint::Tls(_) => "https",
            Endpoint::Unix(_) => "http",
        };
        Ok(Self { requests, driver: Driver::start(connection), scheme, options: Arc::new(options.clone()) })
    }

    /// Dials `target` on a stream of its own.
    ///
    /// # Errors
    /// As [`dial`](fn@dial). Cancel safe: a dropped dial resets its stream.
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
