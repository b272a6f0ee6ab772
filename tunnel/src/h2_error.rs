//! The one classification of the errors of HTTP/2 streams and connections.

use std::io;

use crate::duplex::Broken;
use crate::packet_counters::StreamError;

/// Whether the connection under the stream is gone, or about to go.
fn is_lost(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away()
}

/// Puts an error in words for an operator. For a peer that dies, rustls gives advice to
/// programmers about the missing `close_notify` instead.
pub(crate) fn text(error: &h2::Error) -> String {
    match error.get_io() {
        Some(io) if io.kind() == io::ErrorKind::UnexpectedEof => {
            "the peer closed without a goodbye".to_owned()
        }
        _ => error.to_string(),
    }
}

impl From<&h2::Error> for Broken {
    fn from(error: &h2::Error) -> Self {
        if error.is_reset() && error.is_remote() {
            Self::Reset
        } else if is_lost(error) {
            Self::Lost(text(error))
        } else {
            Self::Protocol(error.to_string())
        }
    }
}

impl From<&h2::Error> for StreamError {
    /// As gRPC maps the codes of HTTP/2 (PROTOCOL-HTTP2.md of gRPC, "Errors").
    fn from(error: &h2::Error) -> Self {
        if is_lost(error) {
            return Self::Unavailable;
        }
        match error.reason() {
            Some(h2::Reason::CANCEL) => Self::Canceled,
            Some(h2::Reason::REFUSED_STREAM) => Self::Unavailable,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Self::ResourceExhausted,
            Some(h2::Reason::INADEQUATE_SECURITY) => Self::PermissionDenied,
            Some(_) | None => Self::Internal,
        }
    }
}

impl StreamError {
    /// The code of an error on a call that the peer made. To a gRPC server, a client
    /// that has disconnected has cancelled its calls.
    pub fn of_caller(error: &h2::Error) -> Self {
        if is_lost(error) { Self::Canceled } else { Self::from(error) }
    }
}
