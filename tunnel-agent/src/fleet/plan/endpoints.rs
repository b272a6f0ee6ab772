//! What is known of each endpoint, and what follows from it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::time::Instant;

use crate::endpoint::Endpoint;
use crate::fleet::entries::{Entries, Entry};

/// Endpoints at once, whatever names resolve to.
const MOST_ENDPOINTS: usize = 256;

/// What is to be expected of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It last led to a server to which another endpoint holds a tunnel.
    Alias,
    /// It never led anywhere, and belongs to the other address family of a name whose
    /// first family works: most likely another address of the same servers.
    Doubtful,
    /// No entry has it any more; a tunnel on it goes on.
    Gone,
    /// It holds a tunnel.
    Holds,
    /// It should hold one.
    Missing,
}

#[derive(Debug)]
struct State {
    listed: bool,
    in_flight: bool,
    /// A load balancer leads to several servers.
    tunnels: usize,
    /// The server to which it led the last time.
    leads: Option<String>,
    /// When it is dialled for need.
    next: Instant,
    tried: Option<Instant>,
    failures: u32,
    /// Looks in a row that found nothing new.
    looks: u32,
}

/// All endpoints.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    endpoints: BTreeMap<Endpoint, State>,
    in_flight: usize,
}

impl Endpoints {
    /// Takes over what the entries have: new endpoints are dialled at once, others
    /// end with their tunnels.
    pub(super) fn list(&mut self, entries: &Entries, now: Instant) {
        for state in self.endpoints.values_mut() {
            state.listed = false;
        }
        for endpoint in entries.iter().flat_map(Entry::endpoints) {
            if let Some(state) = self.endpoints.get_mut(&endpoint) {
                state.listed = true;
            } else if self.endpoints.len() < MOST_ENDPOINTS {
                self.endpoints.insert(endpoint, State::new(now));
            }
        }
        self.endpoints.retain(|_, state| state.listed || state.in_flight || state.tunnels > 0);
    }

    /// Begins an attempt, unless there is one.
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

    /// Attempts under way.
    pub(super) const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// It holds one tunnel more, to this server.
    pub(super) fn gained(&mut self, endpoint: &Endpoint, server_id: &str) {
        if let Some(state) = self.endpoints.get_mut(endpoint) {
            state.tunnels += 1;
            state.leads = Some(server_id.to_owned());
            state.looks = 0;
        }
    }

    /// It holds one tunnel less.
    pub(super) fn lost(&mut self, endpoint: &Endpoint) {
        if let Some(state) = self.endpoints.get_mut(endpoint) {
            state.tunnels = state.tunnels.saturating_sub(1);
        }
    }

    /// Nobody holds a tunnel to this server any more, the last one of which was
    /// on `last`: all endpoints to it are needed.
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

    /// It led to a server to which there is a tunnel.
    pub(super) fn looked(&mut self, endpoint: &Endpoint, server_id: &str, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.leads = Some(server_id.to_owned());
        state.failures = 0;
        self.unchanged(endpoint, next);
    }

    /// It led nowhere, and should have.
    pub(super) fn failed(&mut self, endpoint: &Endpoint, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.failures = state.failures.saturating_add(1);
        state.next = next(state.failures);
    }

    /// It led nowhere, as was to be expected.
    pub(super) fn unchanged(&mut self, endpoint: &Endpoint, next: impl FnOnce(u32) -> Instant) {
        let Some(state) = self.endpoints.get_mut(endpoint) else { return };
        state.next = next(state.looks);
        state.looks = state.looks.saturating_add(1);
    }

    /// The server to which it led the last time.
    pub(super) fn leads(&self, endpoint: &Endpoint) -> Option<&str> {
        self.endpoints.get(endpoint)?.leads.as_deref()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.keys()
    }

    /// Those without an attempt under way, and when they are dialled for need.
    pub(super) fn idle(&self) -> impl Iterator<Item = (&Endpoint, Instant)> {
        self.endpoints
            .iter()
            .filter(|(_, state)| !state.in_flight)
            .map(|(endpoint, state)| (endpoint, state.next))
    }

    /// Whether it may be dialled for another reason than need.
    pub(super) fn is_idle(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.get(endpoint).is_some_and(|state| state.listed && !state.in_flight)
    }

    /// Those that may be dialled, tried longest ago first.
    pub(super) fn by_last_try(&self) -> impl Iterator<Item = &Endpoint> {
        let mut endpoints: Vec<_> = self.endpoints.iter().filter(|(_, state)| !state.in_flight).collect();
        endpoints.sort_by_key(|(_, state)| state.tried);
        endpoints.into_iter().map(|(endpoint, _)| endpoint)
    }

    /// See [`Standing`].
    pub(super) fn standing(
        &self,
        endpoint: &Endpoint,
        entries: &Entries,
        held: impl Fn(&str) -> bool,
    ) -> Standing {
        let Some(state) = self.endpoints.get(endpoint).filter(|state| state.listed) else {
            return Standing::Gone;
        };
        if state.tunnels > 0 {
            return Standing::Holds;
        }
        match &state.leads {
            Some(id) if held(id) => Standing::Alias,
            Some(_) => Standing::Missing,
            None if self.is_doubtful(endpoint, entries) => Standing::Doubtful,
            None => Standing::Missing,
        }
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
    const fn new(now: Instant) -> Self {
        Self {
            listed: true,
            in_flight: false,
            tunnels: 0,
            leads: None,
            next: now,
            tried: None,
            failures: 0,
            looks: 0,
        }
    }
}

fn is_v4(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_ipv4()
}
