//! Events of Leases, for metrics.

use std::time::Duration;

use tokio::time::Instant;

use crate::requests::RequestError;

/// A request about Leases, and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// We deleted the expired Lease of another server.
    Culled,
    /// A request to delete the expired Lease of another server.
    Deleted(Outcome),
    /// A request to list Leases.
    Listed(Outcome),
    /// The begin of a watch of Leases.
    Watched(Outcome),
}

/// The API's answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The HTTP status; 0 without an answer.
    pub code: u16,
    /// Kubernetes' name of the failure, empty on success. Without an answer,
    /// `Timeout`, `Unreachable` or `Busy`.
    pub reason: String,
    /// Time from the request to the answer.
    pub latency: Duration,
}

impl Outcome {
    pub(super) fn of<T>(result: &Result<T, RequestError>, began: Instant) -> Self {
        let (code, reason) = result.as_ref().err().map_or((200, ""), RequestError::code);
        Self { code, reason: reason.to_owned(), latency: began.elapsed() }
    }
}
