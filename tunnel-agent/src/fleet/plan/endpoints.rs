//! The state of each endpoint, and its status in the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::fleet::entries::{Entries, Entry};

/// Most endpoints, whatever names resolve to: each idle one costs a dial now and then.
const MOST_ENDPOINTS: usize = 256;

/// The plan's expectation of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// It last led to a server to which another endpoint holds a tunnel.
    Alias,
    /// It never led to a server, and belongs to the other address family of a name whose first
    /// family does: most likely another address of the same servers.
    Doubtful,
    /// No entry lists it any more; its tunnels go on.
    Gone,
    /// It holds a tunnel.
    Holds,
    /// It should hold a tunnel. One that a Lease names should as long as servers are missing.
    Missing,
}

/// The list that names an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Operator,
    /// A Lease alone.
    Lease,
}

#[derive(Debug)]
struct State {
    /// `None` once nobody lists it.
    listed: Option<Source>,
    in_flight: bool,
    /// Number of tunnels; a load balancer leads to several servers.
    tunnels: usize,
    /// The server to which it led last.
    leads: Option<String>,
    /// The time of the next dial for need.
    next: Instant,
    tried: Option<Instant>,
    failures: u32,
    /// Attempts in a row that changed nothing.
    looks: u32,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    endpoints: BTreeMap<Endpoint, State>,
    in_flight: usize,
}

impl Endpoints {
    /// Takes over the entries' endpoints: new ones are dialled at once, others end with their
    /// tunnels.
    pub(super) fn list(&mut self, entries: &Entries, now: Instant) {
        for state in self.endpoints.values_mut() {
            state.listed = None;
        }
        let of_operator = entries.iter().flat_map(Entry::endpoints);
        let of_operator = of_operator.map(|endpoint| (endpoint, Source::Operator, now));
        let of_leases = entries.leased().map(|(endpoint, first)| (endpoint, Source::Lease, first));
        for (endpoint, source, first) in of_operator.chain(of_leases) {
            if let Some(state) = self.endpoints.get_mut(&endpoint) {
                state.listed = Some(source);
            } else if self.endpoints.len() < MOST_ENDPOINTS {
                self.endpoints.insert(endpoint, State::new(source, first));
            }
        }
        self.endpoints.retain(|_, state| state.listed.is_some() || state.in_flight || state.tunnels > 0);
    }

    /// Whether a Lease alone lists an endpoint.
    pub(super) fn is_leased(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.get(endpoint).is_some_and(State::is_leased)
    }

    /// Endpoints of Leases that nobody needed so far are dialled from `next` on.
    pub(super) fn spread(&mut self, now: Instant, mut next: impl FnMut() -> Instant) {
        for state in self.endpoints.values_mut().filter(|state| state.is_leased() && state.next < now) {
            state.next = next();
        }
    }

    /// Endpoints of Leases that failed are dialled from `next` on, as if they had not.
    pub(super) fn forgive(&mut self, mut next: impl FnMut() -> Instant) {
        for state in self.endpoints.values_mut().filter(|state| state.is_leased() && state.failures > 0) {
            state.failures = 0;
            state.next = state.next.min(next());
        }
    }

    /// Begins an attempt. False if there is one already.
    pub(super) fn begin(&mut self, endpoint: &Endpoint, now: Instant) -> bool {
        let Some(state) = self.endpoints.get_mut(endpoint).filter(|state| !state.in_flight) else {
            return false;
        };
        state.in_flight = true;
        state.tried = Some(now);
        self.in_flight += 1;
        true
    }

    /// Ends an attempt.
    pub(super) fn end(&mut self, endpoint: &Endpoint) {
        if let Some(state) = self.endpoints.get_mut(endpoint).filter(|state| state.in_flight) {
            state.in_flight = false;
            self.in_flight -= 1;
        }
    }

    /// Number of attempts in flight.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// An endpoint holds one more tunnel.
    pub(super) fn gained(&mut self, endpoint: &Endpoint, server_id: &str) {
        if let Some(state) = self.endpoints.get_mut(endpoint) {
            state.tunnels += 1;
            state.leads = Some(server_id.to_owned());
            state.looks = 0;
        }
    }

    /// An endpoint holds one tunnel less.
    pub(super) fn lost(&mut self, endpoint: &Endpoint) {
        if let Some(state) = self.endpoints.get_mut(endpoint) {
            state.tunnels = state.tunnels.saturating_sub(1);
        }
    }

    /// A server has no tunnel any more, the last one of which was on `last`: all endpoints to it
    /// are needed.
    pub(super) fn unheld(
        &mut self,
        server_id: &str,
        last: &Endpoint,
        lasted: bool,
        mut next: impl FnMut(u32) -> Instant,
    ) {
        for (endpoint, state) in &mut self.endpoints {
            if state.tunnels == 0 && (endpoint == last || state.leads.as_deref() == Some(server_id)) {
                state.failures = if lasted { 0 } else { state.failures.saturating_add(1) };
                state.looks = 0;
                state.next = next(state.failures);
            }
        }
    }

    /// An attempt led to a server to which there is a tunnel.
    pub(super) fn looked(&mut self, endpoint: &Endpoint, server_id: &str, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.leads = Some(server_id.to_owned());
        state.failures = 0;
        self.unchanged(endpoint, next);
    }

    /// An attempt at a missing endpoint failed.
    pub(super) fn failed(&mut self, endpoint: &Endpoint, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.failures = state.failures.saturating_add(1);
        state.next = next(state.failures);
    }

    /// An attempt changed nothing, as expected.
    pub(super) fn unchanged(&mut self, endpoint: &Endpoint, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.next = next(state.looks);
        state.looks = state.looks.saturating_add(1);
    }

    /// The server to which an endpoint led last.
    pub(super) fn leads(&self, endpoint: &Endpoint) -> Option<&str> {
        self.endpoints.get(endpoint)?.leads.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.keys()
    }

    /// Endpoints without an attempt in flight, with the times of their next dial for need.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&Endpoint, Instant)> {
        self.endpoints
            .iter()
            .filter(|(_, state)| !state.in_flight)
            .map(|(endpoint, state)| (endpoint, state.next))
    }

    /// Whether an endpoint may be dialled for another reason than need.
    pub(super) fn is_idle(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.get(endpoint).is_some_and(|state| state.listed.is_some() && !state.in_flight)
    }

    /// Endpoints without an attempt in flight, the one tried longest ago first.
    pub(super) fn by_last_try(&self) -> impl Iterator<Item = &Endpoint> {
        let mut endpoints: Vec<_> = self.endpoints.iter().filter(|(_, state)| !state.in_flight).collect();
        endpoints.sort_by_key(|(_, state)| state.tried);
        endpoints.into_iter().map(|(endpoint, _)| endpoint)
    }

    pub(super) fn status(
        &self,
        endpoint: &Endpoint,
        entries: &Entries,
        held: impl Fn(&str) -> bool,
    ) -> Status {
        let Some(state) = self.endpoints.get(endpoint).filter(|state| state.listed.is_some()) else {
            return Status::Gone;
        };
        if state.tunnels > 0 {
            return Status::Holds;
        }
        match &state.leads {
            Some(id) if held(id) => Status::Alias,
            Some(_) => Status::Missing,
            None if self.is_doubtful(endpoint, entries) => Status::Doubtful,
            None => Status::Missing,
        }
    }

    /// Number of servers that the entries should lead to. An endpoint or a name that never led to
    /// a server counts as one. Leases are counted apart.
    pub(super) fn expected(&self, entries: &Entries, held: impl Fn(&str) -> bool) -> usize {
        let mut unknown = entries.iter().filter(|entry| entry.is_unresolved()).count();
        let mut servers = BTreeSet::new();
        for (endpoint, state) in self.endpoints.iter().filter(|(_, state)| !state.is_leased()) {
            match (self.status(endpoint, entries, &held), &state.leads) {
                (Status::Gone | Status::Doubtful, _) => {}
                (Status::Holds | Status::Alias | Status::Missing, Some(id)) => drop(servers.insert(id)),
                (Status::Holds | Status::Alias | Status::Missing, None) => unknown += 1,
            }
        }
        servers.len() + unknown
    }

    fn is_doubtful(&self, endpoint: &Endpoint, entries: &Entries) -> bool {
        let of: Vec<&Entry> = entries.iter().filter(|entry| entry.has(endpoint)).collect();
        let reached = |v4: bool| {
            let mut others = of.iter().flat_map(|entry| entry.endpoints());
            others.any(|other| is_v4(other.addr) == v4 && self.leads(&other).is_some())
        };
        !reached(is_v4(endpoint.addr)) && reached(!is_v4(endpoint.addr))
    }
}

impl State {
    const fn new(source: Source, first: Instant) -> Self {
        Self {
            listed: Some(source),
            in_flight: false,
            tunnels: 0,
            leads: None,
            next: first,
            tried: None,
            failures: 0,
            looks: 0,
        }
    }

    fn is_leased(&self) -> bool {
        self.listed == Some(Source::Lease)
    }
}

fn is_v4(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_ipv4()
}
