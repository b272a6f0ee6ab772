//! Errors of a dial and of the end of a connection.
//!
//! Each text holds its cause, so [`std::error::Error::source`] is not needed.

use std::io;
use std::time::Duration;

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No socket to the frontend.
    #[error("connect to the frontend: {0}")]
    Connect(io::Error),
    /// Bytes of the target came together with the answer, under
    /// [`Early::Fail`](crate::Early::Fail).
    #[error("unexpected {count} bytes of buffered data behind the answer")]
    Early {
        /// Number of bytes.
        count: usize,
    },
    /// The frontend closed before it answered.
    #[error("the frontend closed the connection before it answered")]
    Ended,
    /// The gRPC stream ended with this status instead of an answer.
    #[error("grpc-status {code}: {message}")]
    GrpcStatus {
        /// `grpc-status`.
        code: u32,
        /// `grpc-message`, as it was sent.
        message: String,
    },
    /// HTTP/2 failed: reset, GOAWAY, or the socket under it.
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    /// The socket failed in mid-dial.
    #[error("talk to the frontend: {0}")]
    Io(io::Error),
    /// The answer does not follow the protocol.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// gRPC: a dial answer with an error text.
    #[error("{reason}")]
    Refused {
        /// The error text.
        reason: String,
    },
    /// HTTP: a status other than 200.
    #[error("the frontend answered {code} {reason}")]
    Status {
        /// Status code.
        code: u16,
        /// Reason phrase; empty on HTTP/2, which has none.
        reason: String,
    },
    /// The target cannot be put into a request.
    #[error("not a target: {0:?}")]
    Target(String),
    /// The limit of the dial passed.
    #[error("no {waiting_for} within {limit:?}")]
    Timeout {
        /// The step that did not finish.
        waiting_for: &'static str,
        /// The limit of the whole dial.
        limit: Duration,
    },
    /// The TLS handshake failed.
    #[error("tls handshake with the frontend: {0}")]
    Tls(io::Error),
}

impl DialError {
    /// The server's text, if it refused the dial with one: the reason phrase on
    /// CONNECT, the error text on gRPC.
    pub fn reason(&self) -> Option<&str> {
        let (Self::Refused { reason } | Self::Status { reason, .. }) = self else { return None };
        Some(reason)
    }

    /// The HTTP status, if there was one other than 200.
    pub const fn status(&self) -> Option<u16> {
        if let Self::Status { code, .. } = self { Some(*code) } else { None }
    }
}

/// Why a connection did not close in an orderly way.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The connection failed before it was closed.
    #[error("close: {0}")]
    Io(io::Error),
    /// gRPC: the stream ended without a CLOSE_RSP.
    #[error("the stream ended without a close answer")]
    NoAnswer,
    /// gRPC: the CLOSE_RSP carries this error text.
    #[error("{0}")]
    Reported(String),
    /// No CLOSE_RSP within the limit.
    #[error("not closed within {0:?}")]
    Timeout(Duration),
}
