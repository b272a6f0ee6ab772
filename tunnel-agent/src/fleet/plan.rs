//! Decides what to dial next, and when, without sockets, timers or tasks. Events go in,
//! [`Action`]s come out, time is an argument.
//!
//! An endpoint is dialled for one of four reasons:
//!
//! * **need**: it holds no tunnel. After a failure it backs off; one that led to a server to
//!   which another endpoint holds a tunnel is tried rarely. An endpoint that a Lease alone names is
//!   needed as long as fewer servers are held than counted and none of them is behind it;
//! * **search**: fewer servers are held than counted, and a load balancer may lead to another
//!   one the next time. One attempt at a time, on all endpoints in turn;
//! * **upgrade**: a tunnel is on h2, and QUIC may work by now, or the server asks for h2;
//! * **renewal**: a tunnel's credentials end, and there are newer ones.
//!
//! An attempt for any reason may gain any server. One that finds a server already held costs
//! nothing but itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::time::Instant;
use tunnel::transport::Link;

use super::demand::Demand;
use super::entries::Entries;
use super::pace::Pace;
use super::ways::Ways;
use crate::config::ServerAddr;
use crate::course::{Course, Reason};
use crate::endpoint::Endpoint;

mod count;
mod describe;
mod endpoints;
mod gains;
mod losses;
mod replace;
mod search;
#[cfg(test)]
mod tests;
mod trial;

pub(super) use describe::Tunnel;
use endpoints::{Endpoints, Status};
pub(super) use losses::Silenced;
use search::Search;
use trial::Trial;

/// Most attempts at once. Each is a handshake or two, and lasts ten seconds where nobody
/// answers: with fewer, dead endpoints delay living ones; with more, an agent with a long
/// list floods its network.
const AT_ONCE: usize = 16;

/// As many of them may be at addresses that Leases alone name. With fewer, a control plane's servers are not
/// dialled together; with more, addresses that do not answer take the places of the operator's own.
const LEASED_AT_ONCE: usize = 8;

/// Most tunnels at once. Far more than a control plane has servers, so it only bounds what a
/// broken load balancer can cost.
const MOST_HELD: usize = 256;

/// Returns numbers from 0 up to 1.
pub(super) type Random = Box<dyn FnMut() -> f64 + Send>;

/// The reason to dial an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// It holds no tunnel.
    Need,
    /// It may lead to one more server.
    Search,
    /// The tunnel to this server should move to QUIC, or to h2 if the server asks for it.
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
    Dial(Attempt, Course),
    /// Let the tunnel with this number end after its last stream.
    Retire(u64),
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
    /// Move tunnels from h2 to QUIC, or as servers say.
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
    ways: Ways,
    search: Search,
    serial: u64,
    /// Tunnels that are to end.
    retired: Vec<u64>,
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
    why: Reason,
    /// The server's word about the number of servers; 0 is none.
    told: u32,
    draining: bool,
    /// The time of the next upgrade, if it needs one.
    upgrade: Option<Instant>,
    /// The time of the next attempt to replace it, if its credentials end.
    renew: Option<Instant>,
    trial: Option<Box<Trial>>,
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
            ways: Ways::default(),
            search: Search::new(now),
            serial: 0,
            retired: Vec::new(),
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
            if self.has_place(&attempt.endpoint) && self.endpoints.begin(&attempt.endpoint, now) {
                self.search.in_flight |= attempt.purpose == Purpose::Search;
                let course = match &attempt.purpose {
                    Purpose::Upgrade(_) => self.ways.move_course(&attempt.endpoint, now),
                    Purpose::Need | Purpose::Search | Purpose::Renew(_) => {
                        self.ways.course(&attempt.endpoint, now)
                    }
                };
                actions.push(Action::Dial(attempt, course));
            }
        }
        self.end_trials(now);
        actions.extend(self.retired.drain(..).map(Action::Retire));
        actions
    }

    /// The next time at which [`Self::due`] returns something; `None` if an event comes first.
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let dials = self.candidates().into_iter().filter(|(_, attempt)| self.has_place(&attempt.endpoint));
        let dial = dials.map(|(at, _)| at).min();
        dial.into_iter().chain(self.entries.next_lookup()).chain(self.trials_end()).min()
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

    /// A race of both links is over.
    pub(super) fn raced(&mut self, endpoint: &Endpoint, won: Link, now: Instant) {
        self.ways.raced(endpoint, won, now);
    }

    /// A handshake on h2 timed out.
    pub(super) fn timed_out(&mut self, endpoint: &Endpoint, now: Instant) {
        self.ways.timed_out(endpoint, now);
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
                    let is_leased = self.is_leased(endpoint);
                    let wait = if is_leased { Pace::patient } else { Pace::backoff };
                    self.endpoints.failed(endpoint, |failures| now + wait(pace, failures, random));
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

    /// The bookkeeping of every outcome.
    fn settle(&mut self, attempt: &Attempt, now: Instant) {
        self.endpoints.end(&attempt.endpoint);
        self.search.in_flight &= attempt.purpose != Purpose::Search;
        self.tried(&attempt.purpose, now);
    }

    /// All dials that are not in flight, with the times from which they are due.
    fn candidates(&self) -> Vec<(Instant, Attempt)> {
        let mut candidates = Vec::new();
        let mut add = |at: Instant, purpose: Purpose, endpoint: &Endpoint| {
            candidates.push((at, Attempt { purpose, endpoint: endpoint.clone() }));
        };
        for (endpoint, next) in self.endpoints.idle() {
            let is_leased = self.is_leased(endpoint);
            match self.status(endpoint) {
                Status::Missing if self.is_missing(endpoint) => add(next, Purpose::Need, endpoint),
                Status::Doubtful | Status::Alias if !is_leased => add(next, Purpose::Need, endpoint),
                Status::Missing | Status::Doubtful | Status::Alias | Status::Holds | Status::Gone => {}
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

    /// Whether one more attempt may be made at an endpoint now.
    fn has_place(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.in_flight() < if self.is_leased(endpoint) { LEASED_AT_ONCE } else { AT_ONCE }
    }

    /// Whether an endpoint should hold a tunnel now.
    fn is_missing(&self, endpoint: &Endpoint) -> bool {
        let is_short = || self.active() < self.demand.count();
        self.status(endpoint) == Status::Missing && (!self.is_leased(endpoint) || is_short())
    }

    fn status(&self, endpoint: &Endpoint) -> Status {
        self.endpoints.status(endpoint, &self.entries, |id| self.held.contains_key(id))
    }
}
