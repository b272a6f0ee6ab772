//! The number of servers wanted, by the servers' words and by Leases, and the addresses in Leases.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tunnel_kube::leases::Counted;

use super::Plan;
use crate::endpoint::Endpoint;

impl Plan {
    /// The valid Leases changed.
    pub(in crate::fleet) fn leased(&mut self, counted: &Counted, now: Instant) {
        let (before, is_first) = (self.demand.count(), !self.demand.is_leased());
        self.demand.lease(Some(counted.servers));
        let (pace, random) = (self.manner.pace, &mut self.random);
        // Spread, because all agents learn of a new server at one time. They start at different ones.
        let first = || if is_first { now } else { now + pace.backoff(0, random()) };
        self.entries.lease(&counted.addresses, first);
        self.endpoints.list(&self.entries, now);
        if self.demand.count() != before {
            // Spread, because all agents learn of it at one time.
            self.hurry(now);
        }
    }

    /// Whether a Lease alone names an endpoint.
    pub(in crate::fleet) fn is_leased(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.is_leased(endpoint)
    }

    /// Number of servers held that do not drain.
    pub(super) fn active(&self) -> usize {
        self.held.values().filter(|held| !held.draining).count()
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
