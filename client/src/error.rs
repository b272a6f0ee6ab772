//! What can go wrong with a dial and at the end of a connection.
//!
//! The texts hold their cause; nothing has to be walked to see it.

use std::io;
use std::time::Duration;

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No socket to the frontend.
    #[error("connect to the frontend: {0}")]
    Connect(io::Error),
    /// Bytes of the target came together with the answer, and
    /// [`Early::Fail`](crate::Early::Fail) was asked for.
    #[error("unexpected {count} bytes of buffered data behind the answer")]
    Early {
        /// How many were there.
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
    Http2(h2::Error),
    /// The socket failed in mid-dial.
    #[error("talk to the frontend: {0}")]
    Io(io::Error),
    /// The answer is none of this protocol.
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
    /// A limit passed.
    #[error("no {waiting_for} within {limit:?}")]
    Timeout {
        /// What the dial was waiting for.
        waiting_for: &'static str,
        /// The limit of the whole dial.
        limit: Duration,
    },
    /// The TLS handshake failed.
    #[error("tls handshake with the frontend: {0}")]
    Tls(io::Error),
}

impl DialError {
    /// The words of the server, if it refused the dial with any: the reason
    /// phrase on CONNECT, the error text on gRPC.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason } | Self::Status { reason, .. } => Some(reason),
            Self::Connect(_)
            | Self::Early { .. }
            | Self::Ended
            | Self::GrpcStatus { .. }
            | Self::Http2(_)
            | Self::Io(_)
            | Self::Malformed(_)
            | Self::Target(_)
            | Self::Timeout { .. }
            | Self::Tls(_) => None,
        }
    }

    /// The HTTP status, if there was one other than 200.
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            Self::Connect(_)
            | Self::Early { .. }
            | Self::Ended
            | Self::GrpcStatus { .. }
            | Self::Http2(_)
            | Self::Io(_)
            | Self::Malformed(_)
            | Self::Refused { .. }
            | Self::Target(_)
            | Self::Timeout { .. }
            | Self::Tls(_) => None,
        }
    }
}

impl From<h2::Error> for DialError {
    fn from(error: h2::Error) -> Self {
        Self::Http2(error)
    }
}

/// Why a connection did not close in an orderly way.
#[derive(Debug, thiserror::Error)]
pub enum CloseError {
    /// The connection failed before it was closed.
    #[error("close: {0}")]
    Io(io::Error),
    /// gRPC: the stream ended without a close answer.
    #[error("the stream ended without a close answer")]
    NoAnswer,
    /// gRPC: the close answer carries this error text.
    #[error("{0}")]
    Reported(String),
    /// No close answer within the limit.
    #[error("not closed within {0:?}")]
    Timeout(Duration),
}
