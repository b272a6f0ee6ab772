//! The number of servers wanted, by the servers' words and by Leases.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::Plan;

impl Plan {
    /// The number of valid Leases changed.
    pub(in crate::fleet) fn leased(&mut self, count: Option<u32>, now: Instant) {
        let before = self.demand.count();
        self.demand.lease(count);
        if self.demand.count() != before {
            // Spread, because all agents learn of it at one time.
            self.hurry(now);
        }
    }

    /// Takes over what the servers held say about their number.
    pub(super) fn listen(&mut self) {
        self.demand.tell(self.held.values().map(|held| held.told).max().unwrap_or(0));
    }

    /// The different numbers of servers that the servers held have told, each with one of those servers.
    pub(in crate::fleet) fn told(&self) -> BTreeMap<u32, &str> {
        let told = self.held.iter().map(|(id, held)| (held.told, id.as_str()));
        told.filter(|(told, _)| *told > 0).collect()
    }
}
