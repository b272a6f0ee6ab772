//! How to dial.

use std::time::Duration;

use crate::error::DialError;

/// How to dial. The default is what a kube-apiserver does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Limit of a whole dial, from the socket to the answer.
    pub timeout: Duration,
    /// Limit of [`Connection::close`](crate::Connection::close).
    pub close_timeout: Duration,
    /// Treatment of the target's bytes that arrive with the answer.
    pub early: Early,
    /// TCP only: every close resets the connection and discards unsent bytes
    /// (`SO_LINGER` 0), which the kernel would otherwise go on sending.
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

/// Treatment of the target's bytes that are read together with the answer to
/// the dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Early {
    /// Fail the dial, as the kube-apiserver does on CONNECT. On gRPC the
    /// kube-apiserver loses the bytes.
    Fail,
    /// Deliver them as the first bytes read, and report them by
    /// [`Connection::early`](crate::Connection::early).
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

/// A target is part of a request line, so it must not be able to end the line.
pub(crate) fn check_target(target: &str) -> Result<(), DialError> {
    if target.is_empty() || target.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return Err(DialError::Target(target.escape_default().to_string()));
    }
    Ok(())
}
