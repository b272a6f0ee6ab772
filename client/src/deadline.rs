//! The limit of a whole dial, spent by its steps.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::error::DialError;

/// A point in time, and the limit it came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    /// Runs one step and drops it at the deadline.
    pub(crate) async fn step<F: Future>(
        &self,
        waiting_for: &'static str,
        step: F,
    ) -> Result<F::Output, DialError> {
        timeout_at(self.at, step).await.map_err(|_| DialError::Timeout { waiting_for, limit: self.limit })
    }
}
