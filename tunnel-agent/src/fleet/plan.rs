//! Decides what to dial next, and when, without sockets, timers or tasks. Events go in,
//! [`Action`]s come out, time is an argument.
//!
//! An endpoint is dialled for one of four reasons:
//!
//! * **need**: it holds no tunnel. After a failure it backs off; one that led to a server to
//!   which another endpoint holds a tunnel is tried rarely;
//! * **search**: fewer servers are held than counted, and a load balancer may lead to another
//!   one the next time. One attempt at a time, on all endpoints in turn;
//! * **upgrade**: a tunnel is on h2, and QUIC may work by now;
//! * **renewal**: a tunnel's credentials end, and there are newer ones.
//!
//! An attempt for any reason may gain any server. One that finds a server already held costs
//! nothing but itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_proto::message::Welcome;

use super::demand::Demand;
use super::entries::Entries;
use super::pace::Pace;
use crate::config::ServerAddr;
use crate::endpoint::Endpoint;

mod count;
mod describe;
mod endpoints;
mod replace;
mod search;
#[cfg(test)]
mod tests;

use endpoints::{Endpoints, Status};
use search::Search;

/// Most attempts at once. Each is a handshake or two, and lasts ten seconds where nobody
/// answers: with fewer, dead endpoints delay living ones; with more, an agent with a long
/// list floods its network.
const AT_ONCE: usize = 16;

/// Most tunnels at once. Far more than a control plane has servers, so it only bounds what a
/// broken load balancer can cost.
const MOST_HELD: usize = 256;

/// Age from which a lost tunnel does not count as a failure. Lower, and a server that restarts
/// again and again is dialled at full pace; higher, and an orderly restart is waited out.
const LASTED: Duration = Duration::from_secs(10);

/// Part of the back-off after a silent loss on QUIC, which each agent notices at another time,
/// with its next heartbeat. Lower, and agents crowd; higher, and they wait for nothing.
const SPREAD_ALREADY: f64 = 0.1;

/// Returns numbers from 0 up to 1.
pub(super) type Random = Box<dyn FnMut() -> f64 + Send>;

/// The reason to dial an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// It holds no tunnel.
    Need,
    /// It may lead to one more server.
    Search,
    /// The tunnel to this server should move to QUIC.
    Upgrade(String),
    /// The tunnel to this server was made with credentials that end.
    Renew(String),
}

/// A dial. Those due at one time are made in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempt {
    pub(super) purpose: Purpose,
    pub(super) endpoint: Endpoint,
}

/// Work for the fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Resolve a name; [`Plan::resolved`] follows.
    Resolve(ServerAddr),
    /// Dial; [`Plan::connected`], [`Plan::duplicate`] or [`Plan::failed`] follows.
    Dial(Attempt),
}

/// The decision about a new tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is used under this number, and replaces the tunnel with the other one.
    Keep { serial: u64, replaces: Option<u64> },
    /// There is one to this server already.
    Duplicate,
}

/// The settings of an agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) pace: Pace,
    /// Search also while no server is missing.
    pub(super) forever: bool,
    /// Move tunnels from h2 to QUIC.
    pub(super) upgrades: bool,
}

/// See the module.
pub(super) struct Plan {
    manner: Manner,
    demand: Demand,
    entries: Entries,
    endpoints: Endpoints,
    /// The tunnels by server id.
    held: BTreeMap<String, Held>,
    /// Tunnels to silent servers. They count as lost, and are held again if the server is
    /// heard of before another tunnel replaces them.
    suspects: BTreeMap<String, Held>,
    search: Search,
    serial: u64,
    /// Whether no action is due any more.
    pub(super) stopped: bool,
    random: Random,
}

/// A tunnel.
#[derive(Debug)]
struct Held {
    endpoint: Endpoint,
    serial: u64,
    since: Instant,
    link: Link,
    /// The server's word about the number of servers; 0 is none.
    told: u32,
    draining: bool,
    /// The time of the next upgrade, if it needs one.
    upgrade: Option<Instant>,
    /// The time of the next attempt to replace it, if its credentials end.
    renew: Option<Instant>,
}

impl Plan {
    pub(super) fn new(
        servers: &[ServerAddr],
        demand: Demand,
        manner: Manner,
        random: Random,
        now: Instant,
    ) -> Self {
        let mut plan = Self {
            manner,
            demand,
            entries: Entries::new(servers, now),
            endpoints: Endpoints::default(),
            held: BTreeMap::new(),
            suspects: BTreeMap::new(),
            search: Search::new(now),
            serial: 0,
            stopped: false,
            random,
        };
        plan.endpoints.list(&plan.entries, now);
        plan
    }

    /// The actions due at `now`. Each dial is in flight until its outcome is reported, with at
    /// most one per endpoint.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Action> {
        if self.stopped {
            return Vec::new();
        }
        let mut actions: Vec<Action> = self.entries.lookups(now).into_iter().map(Action::Resolve).collect();
        let mut due = self.candidates();
        due.retain(|(at, _)| *at <= now);
        due.sort();
        for (_, attempt) in due {
            if self.endpoints.in_flight() < AT_ONCE && self.endpoints.begin(&attempt.endpoint, now) {
                self.search.in_flight |= attempt.purpose == Purpose::Search;
                actions.push(Action::Dial(attempt));
            }
        }
        actions
    }

    /// The next time at which [`Self::due`] returns something; `None` if an event comes first.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let dials = self.candidates().into_iter().map(|(at, _)| at);
        let dial = dials.min().filter(|_| self.endpoints.in_flight() < AT_ONCE);
        dial.into_iter().chain(self.entries.next_lookup()).min()
    }

    /// Ids of the servers held.
    pub(super) fn held(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// The numbers of servers held and wanted. Wanted are as many as are counted or as the
    /// endpoints lead to, whichever is more.
    pub(super) fn numbers(&self) -> (usize, usize) {
        let expected = self.endpoints.expected(&self.entries, |id| self.held.contains_key(id));
        (self.held.len(), expected.max(self.demand.count()))
    }

    /// A name was resolved; `None` if that failed.
    pub(super) fn resolved(&mut self, server: &ServerAddr, addrs: Option<&[SocketAddr]>, now: Instant) {
        let random = (self.random)();
        self.entries.resolved(server, addrs, self.manner.pace, random, now);
        self.endpoints.list(&self.entries, now);
    }

    /// An attempt led to a server that admitted the agent.
    pub(super) fn connected(
        &mut self,
        attempt: &Attempt,
        welcome: &Welcome,
        link: Link,
        now: Instant,
    ) -> Verdict {
        let id = &welcome.server_id;
        let held = self.held.get(id).map(|held| held.serial);
        let is_upgrade = matches!(attempt.purpose, Purpose::Upgrade(_));
        let replacing = attempt.purpose.replaces(id) && (link == Link::Quic || !is_upgrade);
        if held.is_some() && !replacing {
            self.duplicate(attempt, id, now);
            return Verdict::Duplicate;
        }
        let replaces = held.or(self.suspects.remove(id).map(|suspect| suspect.serial));
        self.settle(attempt, now);
        self.serial += 1;
        let upgrade = (self.manner.upgrades && link == Link::H2).then(|| self.next_upgrade(now));
        let (serial, endpoint) = (self.serial, attempt.endpoint.clone());
        let told = welcome.server_count;
        let held = Held { endpoint, serial, since: now, link, told, draining: false, upgrade, renew: None };
        if let Some(old) = self.held.insert(id.clone(), held) {
            self.endpoints.lost(&old.endpoint);
        }
        self.listen();
        self.endpoints.gained(&attempt.endpoint, id);
        self.endpoints.list(&self.entries, now);
        self.search_again(now);
        self.search.begin_anew();
        Verdict::Keep { serial, replaces }
    }

    /// An attempt led to a server to which there is a tunnel. True if its endpoint led nowhere
    /// before.
    pub(super) fn duplicate(&mut self, attempt: &Attempt, server_id: &str, now: Instant) -> bool {
        let Attempt { purpose, endpoint } = attempt;
        self.settle(attempt, now);
        let (random, pace) = ((self.random)(), self.manner.pace);
        let held = self.held.contains_key(server_id);
        let new = self.endpoints.leads(endpoint).is_none();
        self.endpoints.looked(endpoint, server_id, |looks| {
            now + if held { pace.rare(looks, random) } else { pace.steady(random) }
        });
        if *purpose == Purpose::Search {
            self.search_again(now);
            self.search.met(server_id);
            // The name may be the load balancer.
            self.entries.doubt(endpoint);
        }
        self.endpoints.list(&self.entries, now);
        new
    }

    /// An attempt failed, or led to a server that did not admit the agent.
    pub(super) fn failed(&mut self, attempt: &Attempt, now: Instant) {
        let Attempt { purpose, endpoint } = attempt;
        self.settle(attempt, now);
        let (random, pace) = ((self.random)(), self.manner.pace);
        match purpose {
            Purpose::Need => {
                self.entries.doubt(endpoint);
                if self.status(endpoint) == Status::Missing {
                    self.endpoints.failed(endpoint, |failures| now + pace.backoff(failures, random));
                } else {
                    self.endpoints.unchanged(endpoint, |looks| now + pace.rare(looks, random));
                }
            }
            Purpose::Search => {
                let failures = self.search.failures.saturating_add(1);
                self.search_again(now);
                self.search.failures = failures;
            }
            Purpose::Upgrade(_) | Purpose::Renew(_) => {}
        }
        self.endpoints.list(&self.entries, now);
    }

    /// A server drains: another one is wanted for it while its tunnel still stands.
    pub(super) fn draining(&mut self, server_id: &str, serial: u64, now: Instant) {
        if let Some(held) = self.held.get_mut(server_id)
            && held.serial == serial
        {
            held.draining = true;
            self.hurry(now);
        }
    }

    /// A server is silent: its tunnel counts as lost. False if another one has replaced it.
    pub(super) fn suspect(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        let Some(held) = self.take(server_id, serial, now) else { return false };
        self.suspects.insert(server_id.to_owned(), held);
        true
    }

    /// The server of a suspect tunnel was heard of again. False if another one has replaced it.
    pub(super) fn back(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        let Some(held) = take_if(&mut self.suspects, server_id, serial) else { return false };
        self.endpoints.list(&self.entries, now);
        self.endpoints.gained(&held.endpoint, server_id);
        self.held.insert(server_id.to_owned(), held);
        self.listen();
        self.search_again(now);
        true
    }

    /// A tunnel is over. False if another one has replaced it.
    pub(super) fn ended(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        // A suspect counts as lost already.
        take_if(&mut self.suspects, server_id, serial).is_some()
            || self.take(server_id, serial, now).is_some()
    }

    /// Takes a tunnel out of those held, if it is there.
    fn take(&mut self, server_id: &str, serial: u64, now: Instant) -> Option<Held> {
        let held = take_if(&mut self.held, server_id, serial)?;
        self.listen();
        let lasted = now.saturating_duration_since(held.since) >= LASTED;
        self.entries.doubt(&held.endpoint);
        self.endpoints.lost(&held.endpoint);
        let (pace, random) = (self.manner.pace, &mut self.random);
        let part = if held.link == Link::Quic && !held.draining { SPREAD_ALREADY } else { 1.0 };
        let next = |failures| now + pace.backoff(failures, random()).mul_f64(part);
        self.endpoints.unheld(server_id, &held.endpoint, lasted, next);
        self.endpoints.list(&self.entries, now);
        self.hurry(now);
        Some(held)
    }

    /// The bookkeeping of every outcome.
    fn settle(&mut self, attempt: &Attempt, now: Instant) {
        self.endpoints.end(&attempt.endpoint);
        self.search.in_flight &= attempt.purpose != Purpose::Search;
        self.tried(&attempt.purpose, now);
    }

    fn next_upgrade(&mut self, now: Instant) -> Instant {
        now + Pace::upgrade((self.random)())
    }

    /// All dials that are not in flight, with the times from which they are due.
    fn candidates(&self) -> Vec<(Instant, Attempt)> {
        let mut candidates = Vec::new();
        let mut add = |at: Instant, purpose: Purpose, endpoint: &Endpoint| {
            candidates.push((at, Attempt { purpose, endpoint: endpoint.clone() }));
        };
        for (endpoint, next) in self.endpoints.idle() {
            match self.status(endpoint) {
                Status::Missing | Status::Doubtful | Status::Alias => add(next, Purpose::Need, endpoint),
                Status::Holds | Status::Gone => {}
            }
        }
        if let Some(at) = self.next_search()
            && let Some(endpoint) = self.searchable()
        {
            add(at, Purpose::Search, endpoint);
        }
        candidates.extend(self.replacements());
        candidates
    }

    fn status(&self, endpoint: &Endpoint) -> Status {
        self.endpoints.status(endpoint, &self.entries, |id| self.held.contains_key(id))
    }
}

/// Takes the tunnel to a server out of `tunnels`, if it has this number.
fn take_if(tunnels: &mut BTreeMap<String, Held>, server_id: &str, serial: u64) -> Option<Held> {
    if tunnels.get(server_id)?.serial == serial { tunnels.remove(server_id) } else { None }
}
