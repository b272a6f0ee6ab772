//! The search for servers behind load balancers: when, and on which endpoint.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{MOST_HELD, Plan, Status};
use crate::endpoint::Endpoint;

/// Searches in vain per server wanted, after which they slow down. With fewer, the last server
/// behind a load balancer that picks at random may not be found by then; with more, searches
/// for a server that is not there cost handshakes.
const PATIENCE: u32 = 8;

/// Searches in vain per server wanted, up to which they are rapid. With fewer, the last of five servers
/// is rarely found by then; with more, the handshakes of a fleet keep its servers busy.
const EAGER: u32 = 4;

/// The state of the searches.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) in_flight: bool,
    /// The time at which the wait for the next one began.
    pub(super) since: Instant,
    /// The spread of that wait.
    pub(super) random: f64,
    /// Whether the next one backs off from nothing, in place of the interval.
    pub(super) quick: bool,
    pub(super) failures: u32,
    /// Searches in a row that found no new server.
    pub(super) fruitless: u32,
    /// The servers that those found instead, and how often.
    met: BTreeMap<String, u32>,
    /// Whether somebody was told that they are in vain.
    told: bool,
}

impl Search {
    pub(super) const fn new(now: Instant) -> Self {
        let met = BTreeMap::new();
        let (in_flight, quick, told) = (false, false, false);
        Self { in_flight, since: now, random: 0.0, quick, failures: 0, fruitless: 0, met, told }
    }

    /// A server was found, or the servers have changed.
    pub(super) fn begin_anew(&mut self) {
        self.fruitless = 0;
        self.met.clear();
        self.told = false;
    }

    /// A search led to a server already held.
    pub(super) fn met(&mut self, server_id: &str) {
        self.fruitless = self.fruitless.saturating_add(1);
        *self.met.entry(server_id.to_owned()).or_default() += 1;
    }
}

impl Plan {
    /// Starts the wait for the next search, as after one that reached a server.
    pub(super) fn search_again(&mut self, now: Instant) {
        self.search.since = now;
        self.search.random = (self.random)();
        self.search.quick = false;
        self.search.failures = 0;
    }

    /// Searches soon: the servers have changed.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.search_again(now);
        self.search.quick = true;
        self.search.begin_anew();
        let (pace, random) = (self.manner.pace, &mut self.random);
        self.endpoints.spread(now, || now + pace.backoff(0, random()));
    }

    /// The endpoint to search on: of those that lead to a held server, the one tried longest ago. An address
    /// in a Lease is one server's and leads to no other.
    pub(super) fn searchable(&self) -> Option<&Endpoint> {
        let leads = |endpoint: &Endpoint| matches!(self.status(endpoint), Status::Holds | Status::Alias);
        self.endpoints.by_last_try().find(|endpoint| leads(endpoint) && !self.is_leased(endpoint))
    }

    /// The time of the next search; `None` if there is none.
    pub(super) fn next_search(&self) -> Option<Instant> {
        let (wanted, search, pace) = (self.demand.count(), &self.search, self.manner.pace);
        let active = self.active();
        let enough = active >= wanted && !self.manner.forever;
        if search.in_flight || enough || self.held.len() >= MOST_HELD {
            return None;
        }
        let wait = if search.failures > 0 || search.quick {
            pace.backoff(search.failures, search.random)
        } else if active + self.missing() < wanted && search.fruitless < self.searches(EAGER) {
            pace.rapid(search.random)
        } else if self.manner.forever {
            pace.steady(search.random)
        } else if active + self.missing() >= wanted {
            // The missing ones have endpoints, which are dialled for need.
            pace.slowed(u32::MAX, search.random)
        } else {
            pace.slowed(search.fruitless.saturating_sub(self.searches(PATIENCE)), search.random)
        };
        Some(search.since + wait)
    }

    /// The servers that a search in vain led to, each with its number of attempts. `Some` once for each
    /// search, after many attempts.
    pub(in crate::fleet) fn searched_in_vain(&mut self) -> Option<BTreeMap<String, u32>> {
        if self.search.told || self.search.fruitless < self.searches(PATIENCE) {
            return None;
        }
        self.search.told = true;
        Some(std::mem::take(&mut self.search.met))
    }

    fn searches(&self, per_server: u32) -> u32 {
        per_server.saturating_mul(u32::try_from(self.demand.count()).unwrap_or(u32::MAX))
    }

    /// Endpoints of the operator that should hold a tunnel. An address in a Lease may be out of reach, and
    /// slows no search.
    fn missing(&self) -> usize {
        let missing = |endpoint: &&Endpoint| self.status(endpoint) == Status::Missing;
        self.endpoints.iter().filter(missing).filter(|endpoint| !self.is_leased(endpoint)).count()
    }
}
