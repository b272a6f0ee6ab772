//! The servers of the operator's list, and the addresses of each; and those that servers advertise in
//! their Leases, as further addresses of the first server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::config::ServerAddr;
use crate::endpoint::Endpoint;

/// Time between lookups of a name, give or take a fifth. The system's resolver does not tell how
/// long an answer holds: shorter, and agents load the DNS; longer, and a new address is found late.
const RESOLVE: Duration = Duration::from_secs(30);

/// Least time between lookups of a name while attempts at it fail. Shorter, and a dead server
/// loads the DNS; longer, and a name that moved is followed late.
const RESOLVE_LEAST: Duration = Duration::from_secs(1);

/// Most addresses of one name, and of Leases, which bounds the tunnels and dials that DNS and writers of
/// Leases can cause.
const MOST_ADDRESSES: usize = 64;

/// One server of the list.
#[derive(Debug)]
pub(super) struct Entry {
    server: ServerAddr,
    name: Arc<str>,
    addrs: BTreeSet<SocketAddr>,
    /// `None` for an address.
    lookup: Option<Lookup>,
}

#[derive(Debug)]
struct Lookup {
    /// `None` while it is in flight.
    next: Option<Instant>,
    began: Option<Instant>,
    failures: u32,
}

impl Entry {
    fn new(server: ServerAddr, now: Instant) -> Self {
        let ip: Option<IpAddr> = server.host.parse().ok();
        Self {
            addrs: ip.map(|ip| SocketAddr::new(ip, server.port)).into_iter().collect(),
            lookup: ip.is_none().then_some(Lookup { next: Some(now), began: None, failures: 0 }),
            name: server.host.as_str().into(),
            server,
        }
    }

    /// Whether this entry lists an endpoint.
    pub(super) fn has(&self, endpoint: &Endpoint) -> bool {
        self.name == endpoint.name && self.addrs.contains(&endpoint.addr)
    }

    /// Whether no address is known.
    pub(super) fn is_unresolved(&self) -> bool {
        self.addrs.is_empty()
    }

    /// The operator's text.
    pub(super) const fn server(&self) -> &ServerAddr {
        &self.server
    }

    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.addrs.iter().map(|addr| Endpoint { addr: *addr, name: Arc::clone(&self.name) })
    }
}

/// All entries.
#[derive(Debug)]
pub(super) struct Entries {
    /// The operator's.
    listed: Vec<Entry>,
    /// The addresses in Leases, with the times of their first dials.
    leased: BTreeMap<SocketAddr, Instant>,
}

impl Entries {
    pub(super) fn new(servers: &[ServerAddr], now: Instant) -> Self {
        let listed = servers.iter().map(|server| Entry::new(server.clone(), now)).collect();
        Self { listed, leased: BTreeMap::new() }
    }

    /// The operator's entries.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.listed.iter()
    }

    /// Takes over the addresses in Leases; a new one is dialled from `first` on.
    pub(super) fn lease(&mut self, addrs: &BTreeSet<SocketAddr>, mut first: impl FnMut() -> Instant) {
        self.leased.retain(|addr, _| addrs.contains(addr));
        for addr in addrs.iter().take(MOST_ADDRESSES) {
            self.leased.entry(*addr).or_insert_with(&mut first);
        }
    }

    /// The endpoints that Leases alone name, with the times of their first dials. Their certificates have
    /// to be for the operator's first server: a Lease decides no name.
    pub(super) fn leased(&self) -> impl Iterator<Item = (Endpoint, Instant)> {
        let unknown = |addr: &SocketAddr| !self.listed.iter().any(|entry| entry.addrs.contains(addr));
        self.listed.first().into_iter().flat_map(move |Entry { name, .. }| {
            let endpoint = move |addr: &SocketAddr| Endpoint { addr: *addr, name: Arc::clone(name) };
            let leased = self.leased.iter().filter(move |(addr, _)| unknown(addr));
            leased.map(move |(addr, first)| (endpoint(addr), *first))
        })
    }

    /// Names to resolve now; each is in flight until [`Self::resolved`].
    pub(super) fn lookups(&mut self, now: Instant) -> Vec<ServerAddr> {
        let mut due = Vec::new();
        for Entry { server, lookup, .. } in &mut self.listed {
            if let Some(lookup) = lookup
                && lookup.next.is_some_and(|next| next <= now)
            {
                (lookup.next, lookup.began) = (None, Some(now));
                due.push(server.clone());
            }
        }
        due
    }

    /// The time of the next lookup that is not in flight.
    pub(super) fn next_lookup(&self) -> Option<Instant> {
        self.listed.iter().filter_map(|entry| entry.lookup.as_ref()?.next).min()
    }

    /// The outcome of a lookup. A failure, `None`, keeps the addresses.
    pub(super) fn resolved(
        &mut self,
        server: &ServerAddr,
        addrs: Option<&[SocketAddr]>,
        pace: Pace,
        random: f64,
        now: Instant,
    ) {
        for entry in self.listed.iter_mut().filter(|entry| entry.server == *server) {
            let Some(lookup) = &mut entry.lookup else { continue };
            let wait = match addrs.filter(|addrs| !addrs.is_empty()) {
                Some(addrs) => {
                    lookup.failures = 0;
                    entry.addrs = addrs.iter().copied().take(MOST_ADDRESSES).collect();
                    RESOLVE.mul_f64(0.8 + 0.4 * random)
                }
                None => {
                    lookup.failures = lookup.failures.saturating_add(1);
                    pace.backoff(lookup.failures, random)
                }
            };
            lookup.next = Some(now + wait);
        }
    }

    /// An endpoint leads nowhere: its name, which may have moved, is resolved again soon.
    pub(super) fn doubt(&mut self, endpoint: &Endpoint) {
        for entry in self.listed.iter_mut().filter(|entry| entry.has(endpoint)) {
            if let Some(Lookup { next: Some(next), began: Some(began), .. }) = &mut entry.lookup {
                *next = (*next).min(*began + RESOLVE_LEAST);
            }
        }
    }
}
