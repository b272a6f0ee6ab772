//! A client of the tunnel server's frontends that behaves as the
//! kube-apiserver: HTTP CONNECT or Konnectivity's gRPC, over a Unix socket or
//! over TCP with mutual TLS.
//!
//! Tests, the demo and the load generator use it with any server that speaks
//! these protocols. It reports what a kube-apiserver would fail on (a status
//! other than 200, bytes together with the answer, packets of another
//! connection) and does not hide it.
//!
//! It does not retry, pool or balance. Its only tasks drive HTTP/2 connections;
//! each ends at most one second after its last user.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
//! use tunnel_client::{Endpoint, Options, Protocol, dial};
//!
//! let frontend = Endpoint::unix("/run/tunnel/server.socket");
//! let options = Options::default();
//! let mut connection = dial(Protocol::Connect, &frontend, "10.0.0.7:10250", &options).await?;
//! connection.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
//! let mut answer = String::new();
//! connection.read_to_string(&mut answer).await?;
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod connect;
mod connection;
mod deadline;
mod driver;
mod endpoint;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod grpc;
mod options;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use deadline::Deadline;

pub use connection::Connection;
pub use endpoint::{Endpoint, PemError, tls_config};
pub use error::{CloseError, DialError};
pub use options::{Early, Options, Protocol};

/// Dials `target` (`host:port`) on a new socket; on gRPC that is a new HTTP/2
/// connection.
///
/// # Errors
/// [`DialError::Status`] (CONNECT) or [`DialError::Refused`] (gRPC) when the
/// frontend refuses; see [`DialError`] for the rest. Cancel safe: a dropped dial
/// closes its socket.
pub async fn dial(
    protocol: Protocol,
    endpoint: &Endpoint,
    target: &str,
    options: &Options,
) -> Result<Connection, DialError> {
    options::check_target(target)?;
    let deadline = Deadline::after(options.timeout);
    match protocol {
        Protocol::Connect => connect::dial(endpoint, target, options, deadline).await,
        Protocol::Grpc => grpc::dial(endpoint, target, options, deadline).await,
    }
}
