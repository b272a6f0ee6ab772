//! Metrics of one direction of relayed connections.

use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};
use tunnel::relay::Counts;

/// The metrics that the relays of connections of one kind share in one direction.
#[derive(Debug)]
pub struct LaneMetrics {
    /// Bytes that the sink took.
    pub bytes: IntCounter,
    /// Directions whose sink takes nothing now.
    pub waiting: Option<IntGauge>,
    /// Seconds of each such wait, once it is over. Writes that are taken at once are
    /// not in it: reading the clock for each would cost more than many of them do.
    pub waits: Option<Histogram>,
    /// Directions that are stalled now.
    pub stalled: IntGauge,
    /// Waits that became a stall.
    pub stalls: IntCounter,
}

impl Counts for LaneMetrics {
    fn took(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    fn wait_began(&self) {
        self.waiting.iter().for_each(IntGauge::inc);
    }

    fn wait_ended(&self, waited: Duration) {
        self.waiting.iter().for_each(IntGauge::dec);
        self.waits.iter().for_each(|waits| waits.observe(waited.as_secs_f64()));
    }

    fn stall_began(&self) {
        self.stalled.inc();
        self.stalls.inc();
    }

    fn stall_ended(&self) {
        self.stalled.dec();
    }
}
