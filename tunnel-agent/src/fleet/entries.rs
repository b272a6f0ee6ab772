//! Where servers may be: what the operator listed and what servers told, and
//! the addresses behind each.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;
use crate::config::ServerAddr;
use crate::way::Way;

/// A name is resolved again this often, give or take a fifth. The resolver of
/// the system does not say for how long an answer holds.
const RESOLVE: Duration = Duration::from_secs(30);

/// After an attempt failed, a name is resolved again at once, but not sooner
/// than this after the last time.
const RESOLVE_LEAST: Duration = Duration::from_secs(1);

/// Addresses of one name that are dialled.
const MOST_ADDRESSES: usize = 64;

/// One place where servers may be.
#[derive(Debug)]
pub(super) struct Entry {
    server: ServerAddr,
    name: Arc<str>,
    addrs: BTreeSet<SocketAddr>,
    /// For names; addresses need none.
    lookup: Option<Lookup>,
}

#[derive(Debug)]
struct Lookup {
    next: Instant,
    began: Option<Instant>,
    in_flight: bool,
    failures: u32,
}

impl Entry {
    fn new(server: ServerAddr, now: Instant) -> Self {
        let ip: Option<IpAddr> = server.host.parse().ok();
        Self {
            addrs: ip.map(|ip| SocketAddr::new(ip, server.port)).into_iter().collect(),
            lookup: ip.is_none().then_some(Lookup { next: now, began: None, in_flight: false, failures: 0 }),
            name: server.host.as_str().into(),
            server,
        }
    }

    /// Whether a way belongs to this entry.
    pub(super) fn has(&self, way: &Way) -> bool {
        self.name == way.name && self.addrs.contains(&way.addr)
    }

    /// Whether no address of it is known.
    pub(super) fn is_unresolved(&self) -> bool {
        self.addrs.is_empty()
    }

    /// The operator's text.
    pub(super) const fn server(&self) -> &ServerAddr {
        &self.server
    }

    /// The ways of this entry.
    pub(super) fn ways(&self) -> impl Iterator<Item = Way> {
        self.addrs.iter().map(|addr| Way { addr: *addr, name: Arc::clone(&self.name) })
    }

    fn due(&self) -> Option<Instant> {
        self.lookup.as_ref().filter(|lookup| !lookup.in_flight).map(|lookup| lookup.next)
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Entries(Vec<Entry>);

impl Entries {
    /// The operator's list, each entry once.
    pub(super) fn new(servers: &[ServerAddr], now: Instant) -> Self {
        let mut entries: Vec<Entry> = Vec::new();
        for server in servers {
            if entries.iter().all(|entry| entry.server != *server) {
                entries.push(Entry::new(server.clone(), now));
            }
        }
        Self(entries)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    /// Names to be resolved now; each is in flight until [`Self::resolved`].
    pub(super) fn lookups(&mut self, now: Instant) -> Vec<ServerAddr> {
        let mut due: Vec<ServerAddr> = Vec::new();
        for entry in &self.0 {
            if entry.due().is_some_and(|next| next <= now) && !due.contains(&entry.server) {
                due.push(entry.server.clone());
            }
        }
        for entry in self.0.iter_mut().filter(|entry| due.contains(&entry.server)) {
            if let Some(lookup) = &mut entry.lookup {
                lookup.in_flight = true;
                lookup.began = Some(now);
            }
        }
        due
    }

    /// When the next name is to be resolved.
    pub(super) fn next_lookup(&self) -> Option<Instant> {
        self.0.iter().filter_map(Entry::due).min()
    }

    /// The answer for a name; `None` when there was none, which changes nothing
    /// but the time of the next try.
    pub(super) fn resolved(
        &mut self,
        server: &ServerAddr,
        addrs: Option<&[SocketAddr]>,
        pace: Pace,
        random: f64,
        now: Instant,
    ) {
        for entry in self.0.iter_mut().filter(|entry| entry.server == *server) {
            let Some(lookup) = &mut entry.lookup else { continue };
            lookup.in_flight = false;
            match addrs.filter(|addrs| !addrs.is_empty()) {
                Some(addrs) => {
                    lookup.failures = 0;
                    lookup.next = now + RESOLVE.mul_f64(0.8 + 0.4 * random);
                    entry.addrs = addrs.iter().copied().take(MOST_ADDRESSES).collect();
                }
                None => {
                    lookup.failures = lookup.failures.saturating_add(1);
                    lookup.next = now + pace.backoff(lookup.failures, random);
                }
            }
        }
    }

    /// A way does not lead anywhere: its name may have moved.
    pub(super) fn doubt(&mut self, way: &Way) {
        for entry in self.0.iter_mut().filter(|entry| entry.has(way)) {
            if let Some(lookup) = &mut entry.lookup
                && let Some(began) = lookup.began
            {
                lookup.next = lookup.next.min(began + RESOLVE_LEAST);
            }
        }
    }
}
