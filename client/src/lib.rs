//! A client of the tunnel server's frontends, doing what the kube-apiserver
//! does: HTTP CONNECT or Konnectivity's gRPC, over a Unix socket or over TCP
//! with mutual TLS.
//!
//! It is used by tests, the demo and the load generator, so it reports what a
//! kube-apiserver would trip over (a status other than 200, bytes that ride
//! with the answer, packets of another connection) instead of hiding it, and
//! costs little enough not to be what is measured. It works with any server
//! that speaks these protocols.
//!
//! It does not retry, pool or balance, and it keeps no state beside the
//! connections it hands out. The only tasks it starts drive HTTP/2
//! connections; each ends at most a second after its last user has gone.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! use tunnel_client::{Endpoint, connect};
//!
//! let frontend = Endpoint::unix("/run/tunnel/server.socket");
//! let mut connection = connect::dial(&frontend, "10.0.0.7:10250").await?;
//! connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
//! let mut answer = String::new();
//! connection.read_to_string(&mut answer).await?;
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

pub mod connect;
pub mod grpc;

mod connection;
mod deadline;
mod driver;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use connection::Connection;
pub use endpoint::{Endpoint, PemError, TlsEndpoint, tls_config};
pub use error::{CloseError, DialError};

/// How to dial. The default is what a kube-apiserver does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limit of a whole dial, from the socket to the answer.
    pub timeout: Duration,
    /// Limit of [`Connection::close`].
    pub close_timeout: Duration,
    /// What to do about bytes of the target that arrive with the answer.
    pub early: Early,
    /// TCP: whatever closes the socket resets the connection, and what was not
    /// sent by then is forgotten, where the kernel would go on sending for a
    /// program that is gone. Unix sockets know no reset.
    pub reset_on_close: bool,
    /// gRPC: bytes the frontend may send per stream ahead of the reader.
    pub stream_window: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            close_timeout: Duration::from_secs(10),
            early: Early::Fail,
            reset_on_close: false,
            stream_window: 1 << 20,
        }
    }
}

/// What to do about bytes of the target that are read together with the
/// answer to the dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Fail the dial, as the kube-apiserver does on CONNECT. (On gRPC it loses
    /// the bytes, which is worse.)
    Fail,
    /// Deliver them as the first bytes read; [`Connection::early`] tells.
    Keep,
}

/// The protocol of a frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP CONNECT.
    Connect,
    /// gRPC, one HTTP/2 connection and one stream per dial.
    Grpc,
}

/// Dials `target` (`host:port`) by either protocol.
///
/// # Errors
/// See [`DialError`]. Cancel safe: a dropped dial closes its socket.
pub async fn dial(
    protocol: Protocol,
    endpoint: &Endpoint,
    target: &str,
    options: &Options,
) -> Result<Connection, DialError> {
    match protocol {
        Protocol::Connect => connect::dial_with(endpoint, target, options).await,
        Protocol::Grpc => grpc::dial_with(endpoint, target, options).await,
    }
}

/// A target goes into a request line, so it must not be able to end it.
fn check_target(target: &str) -> Result<(), DialError> {
    if target.is_empty() || target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(DialError::Target(target.escape_default().to_string()));
    }
    Ok(())
}
