//! Leases: each tunnel server keeps one in the cluster, and agents count them
//! to know to how many servers they should be connected.
//!
//! Names, labels, durations and the rule of validity are Konnectivity's, so that
//! its servers and agents and ours count each other.

mod count;
mod publish;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::requests::RequestError;

pub use count::{Counting, count};
pub use publish::{Publication, publish};

/// What was asked of the API about Leases, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A peer's Lease that had expired is gone by our hand.
    Culled,
    /// A peer's expired Lease was to be deleted.
    Deleted(Answer),
    /// Leases were listed.
    Listed(Answer),
    /// A watch of Leases was begun.
    Watched(Answer),
}

/// How the API answered a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status; 0 when no answer came.
    pub code: u16,
    /// Kubernetes' name of the failure, empty on success. Without an answer
    /// it is `Timeout`, `Unreachable` or `Busy`.
    pub reason: String,
    /// How long it took.
    pub latency: Duration,
}

impl Answer {
    fn to<T>(result: &Result<T, RequestError>, began: Instant) -> Self {
        let (code, reason) = result.as_ref().err().map_or((200, ""), RequestError::code);
        Self { code, reason: reason.to_owned(), latency: began.elapsed() }
    }
}

/// What is told of requests about Leases.
pub type Observe = Arc<dyn Fn(LeaseEvent) + Send + Sync>;

/// The cluster's time. Not the runtime's: Leases of other hosts are measured by it.
type Clock = fn() -> Timestamp;

/// When a Lease runs out, if it says so. One that was never renewed counts from
/// when it was acquired; one without either time, or without a duration, is
/// none that anybody keeps.
fn runs_out(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref().or(spec.acquire_time.as_ref())?.0;
    let duration = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
    renewed.checked_add(duration).ok()
}

/// Whether somebody keeps this Lease.
fn is_valid(lease: &Lease, now: Timestamp) -> bool {
    runs_out(lease).is_some_and(|end| end > now)
}
