//! The search for servers behind a load balancer: when, and on which endpoint.

use tokio::time::Instant;

use super::{MOST_HELD, Plan, Standing};
use crate::endpoint::Endpoint;

/// Searches that lead to servers already held slow down when there were this
/// many in a row per server wanted: behind a load balancer that picks at random
/// the last server is all but sure to be found by then.
const PATIENCE: u32 = 8;

/// The state of the search.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) in_flight: bool,
    /// When the wait for the next one began, and how it is spread.
    pub(super) since: Instant,
    pub(super) random: f64,
    /// A tunnel was lost: the next one is quick.
    pub(super) quick: bool,
    pub(super) failures: u32,
    /// Searches in a row that found nothing new.
    pub(super) fruitless: u32,
}

impl Search {
    pub(super) const fn new(now: Instant) -> Self {
        Self { in_flight: false, since: now, random: 0.0, quick: false, failures: 0, fruitless: 0 }
    }
}

impl Plan {
    /// The wait for the next search begins, after one that reached a server.
    pub(super) fn search_again(&mut self, now: Instant) {
        self.search.since = now;
        self.search.random = (self.random)();
        self.search.quick = false;
        self.search.failures = 0;
    }

    /// A tunnel was lost: something may have taken its place.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.search_again(now);
        self.search.quick = true;
        self.search.fruitless = 0;
    }

    /// The endpoint to search on: one that leads to a server, tried longest ago.
    pub(super) fn searchable(&self) -> Option<Endpoint> {
        let leads =
            |endpoint: &&Endpoint| matches!(self.standing(endpoint), Standing::Holds | Standing::Alias);
        self.endpoints.by_last_try().find(leads).cloned()
    }

    /// From when on to search; `None` when all servers are held.
    pub(super) fn next_search(&self) -> Option<Instant> {
        let (wanted, search, pace) = (self.demand.count(), &self.search, self.manner.pace);
        let active = self.held.values().filter(|held| !held.draining).count();
        let enough = active >= wanted && !self.manner.forever;
        if search.in_flight || enough || self.held.len() >= MOST_HELD {
            return None;
        }
        let wait = if search.failures > 0 || search.quick {
            pace.backoff(search.failures, search.random)
        } else if self.manner.forever {
            pace.steady(search.random)
        } else if active + self.missing() >= wanted {
            // Those missing have an address, which is dialled for itself.
            pace.slowed(u32::MAX, search.random)
        } else {
            let patience = PATIENCE.saturating_mul(u32::try_from(wanted).unwrap_or(u32::MAX));
            pace.slowed(search.fruitless.saturating_sub(patience), search.random)
        };
        Some(search.since + wait)
    }

    fn missing(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| self.standing(endpoint) == Standing::Missing).count()
    }
}
