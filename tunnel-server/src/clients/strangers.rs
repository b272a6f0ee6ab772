//! Clients that are not admitted: counted each, and logged now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::Client;
use crate::metrics::Metrics;

/// Time between two lines. With less, a client that tries in a loop fills the disk; with more, an
/// operator who has just changed a flag sees nothing.
const PAUSE: Duration = Duration::from_secs(5);

/// The log of refused clients.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    suppressed: u64,
}

impl Strangers {
    /// Counts a client, and logs it unless a line was written just before. Does nothing for a client
    /// that is admitted.
    pub(crate) fn note(&self, client: &Client, metrics: &Metrics) {
        let Some(refusal) = client.refusal() else { return };
        metrics.bad_client(refusal.reason);
        let Some(suppressed) = self.admit(Instant::now()) else { return };
        let (listener, identity) = (client.listener, client.name());
        warn!(listener, identity, suppressed, "client refused: {}", refusal.text);
    }

    /// Whether a line is written, and how many were not since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        // A panic elsewhere leaves the numbers whole.
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            lines.suppressed += 1;
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rare_and_the_next_one_counts_the_rest() {
        let (strangers, now) = (Strangers::default(), Instant::now());
        let admitted: Vec<_> = (0..10).filter_map(|_| strangers.admit(now)).collect();
        assert_eq!(admitted, [0]);
        assert_eq!(strangers.admit(now + PAUSE), Some(9));
    }
}
