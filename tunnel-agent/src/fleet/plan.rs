//! What to dial next, and when: the decisions of the fleet, without sockets,
//! timers or tasks. Events go in, [`Action`]s come out, time is an argument.
//!
//! There are three reasons to dial a way (an address and a name):
//!
//! * **need**: it holds no tunnel. One that failed backs off; one that led to a
//!   server to which another way holds a tunnel is looked at only rarely;
//! * **search**: fewer servers are held than there are said to be, and a load
//!   balancer may lead somewhere else the next time. One attempt at a time, on
//!   all ways in turn;
//! * **upgrade**: a tunnel had to fall back to h2, and QUIC may work by now.
//!
//! Whatever the reason, an attempt that finds another server is welcome, and one
//! that finds a server that is held already costs nothing but itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;

use super::demand::Demand;
use super::entries::Entries;
use super::pace::Pace;
use crate::config::ServerAddr;
use crate::way::Way;

mod describe;
mod numbers;
mod search;
#[cfg(test)]
mod tests;
mod upgrade;
mod ways;

use search::Search;
use ways::{Standing, Ways};

/// Attempts at once. Each is a handshake or two, and lasts ten seconds where
/// nobody answers.
const AT_ONCE: usize = 16;

/// Tunnels at once, whatever a load balancer brings.
const MOST_HELD: usize = 256;

/// A tunnel that lasted this long was a success: the next wait is short again.
const LASTED: Duration = Duration::from_secs(10);

/// This part of the wait is enough where the agents of a server do not learn of its
/// end in one moment.
const SPREAD_ALREADY: f64 = 0.1;

/// Gives numbers from 0 up to 1.
pub(super) type Random = Box<dyn FnMut() -> f64 + Send>;

/// Why a way is dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// It holds no tunnel.
    Need,
    /// It may lead to one more server.
    Search,
    /// The tunnel to this server should move to QUIC.
    Upgrade(String),
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Resolve a name; [`Plan::resolved`] follows.
    Resolve(ServerAddr),
    /// Dial; [`Plan::connected`], [`Plan::duplicate`] or [`Plan::failed`] follows.
    Dial(Way, Purpose),
}

/// What a server said when it took us.
#[derive(Debug, Clone)]
pub(super) struct News {
    pub(super) server_id: String,
    pub(super) link: Link,
    /// How many servers there are; 0 if this one does not say.
    pub(super) server_count: u32,
}

/// What becomes of a tunnel that was established.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is used, under this number, in place of another one if so said.
    Keep { serial: u64, replaces: Option<u64> },
    /// There is one to this server already.
    Duplicate,
}

/// How an agent behaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) pace: Pace,
    /// Search also when all servers are held.
    pub(super) forever: bool,
    /// Try to move from h2 to QUIC.
    pub(super) upgrades: bool,
}

/// See the module.
pub(super) struct Plan {
    manner: Manner,
    demand: Demand,
    entries: Entries,
    ways: Ways,
    held: BTreeMap<String, Held>,
    /// Tunnels to servers that are silent. They count as lost, unless they come
    /// back before there is another one.
    suspects: BTreeMap<String, Held>,
    search: Search,
    serial: u64,
    stopped: bool,
    random: Random,
}

/// A tunnel.
#[derive(Debug)]
struct Held {
    way: Way,
    serial: u64,
    since: Instant,
    link: Link,
    draining: bool,
    upgrade: Option<Instant>,
}

/// A dial that may be made from a moment on.
type Candidate = (Instant, Purpose, Way);

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
            ways: Ways::default(),
            held: BTreeMap::new(),
            suspects: BTreeMap::new(),
            search: Search::new(now),
            serial: 0,
            stopped: false,
            random,
        };
        plan.ways.list(&plan.entries, now);
        plan
    }

    /// What is to be done at `now`. Each dial is in flight until its outcome is
    /// reported, and there is never more than one on a way.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Action> {
        if self.stopped {
            return Vec::new();
        }
        let mut actions: Vec<Action> = self.entries.lookups(now).into_iter().map(Action::Resolve).collect();
        let mut due = self.candidates();
        due.retain(|(at, _, _)| *at <= now);
        due.sort();
        for (_, purpose, way) in due {
            if self.ways.in_flight() < AT_ONCE && self.ways.begin(&way, now) {
                self.search.in_flight |= purpose == Purpose::Search;
                actions.push(Action::Dial(way, purpose));
            }
        }
        actions
    }

    /// When [`Self::due`] will have something next; `None` is "not before an event".
    pub(super) fn wake(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let dials = self.candidates().into_iter().map(|(at, _, _)| at);
        let dial = dials.min().filter(|_| self.ways.in_flight() < AT_ONCE);
        dial.into_iter().chain(self.entries.next_lookup()).min()
    }

    /// No more work is begun.
    pub(super) const fn stop(&mut self) {
        self.stopped = true;
    }

    /// Whether no more work is begun.
    pub(super) const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Ids of the servers held.
    pub(super) fn held(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// A name was resolved; `None` if it could not be.
    pub(super) fn resolved(&mut self, server: &ServerAddr, addrs: Option<&[SocketAddr]>, now: Instant) {
        let random = (self.random)();
        self.entries.resolved(server, addrs, self.manner.pace, random, now);
        self.ways.list(&self.entries, now);
    }

    /// So many Leases are valid.
    pub(super) fn leased(&mut self, count: Option<u32>, now: Instant) {
        let before = self.demand.count();
        self.demand.lease(count);
        if self.demand.count() != before {
            // All agents learn of it in one moment.
            self.hurry(now);
        }
    }

    /// An attempt led to a server that took us.
    pub(super) fn connected(&mut self, way: &Way, purpose: &Purpose, news: &News, now: Instant) -> Verdict {
        let held = self.held.get(&news.server_id).map(|held| held.serial);
        let upgrades = *purpose == Purpose::Upgrade(news.server_id.clone()) && news.link == Link::Quic;
        if held.is_some() && !upgrades {
            self.duplicate(way, purpose, &news.server_id, now);
            return Verdict::Duplicate;
        }
        let replaces = held.or(self.suspects.remove(&news.server_id).map(|suspect| suspect.serial));
        self.settle(way, purpose);
        if let Purpose::Upgrade(id) = purpose {
            // A load balancer led to another server.
            self.postpone_upgrade(id, now);
        }
        self.demand.tell(news.server_count);
        self.serial += 1;
        let upgrade = self.next_upgrade(news.link, now);
        let (serial, id) = (self.serial, news.server_id.clone());
        let held = Held { way: way.clone(), serial, since: now, link: news.link, draining: false, upgrade };
        if let Some(old) = self.held.insert(id, held) {
            self.ways.lost(&old.way);
        }
        self.ways.gained(way, &news.server_id);
        self.ways.list(&self.entries, now);
        self.search_again(now);
        self.search.fruitless = 0;
        Verdict::Keep { serial, replaces }
    }

    /// An attempt led to a server to which there is a tunnel. True if this way
    /// has led nowhere before.
    pub(super) fn duplicate(&mut self, way: &Way, purpose: &Purpose, server_id: &str, now: Instant) -> bool {
        self.settle(way, purpose);
        let random = (self.random)();
        let held = self.held.contains_key(server_id);
        let new = self.ways.leads(way).is_none();
        self.ways.looked(way, server_id, |looks| {
            now + if held { self.manner.pace.rare(looks, random) } else { self.manner.pace.steady(random) }
        });
        match purpose {
            Purpose::Need => {}
            Purpose::Search => {
                self.search_again(now);
                self.search.fruitless = self.search.fruitless.saturating_add(1);
                // A name may be the load balancer.
                self.entries.doubt(way);
            }
            Purpose::Upgrade(id) => self.postpone_upgrade(id, now),
        }
        self.ways.list(&self.entries, now);
        new
    }

    /// An attempt failed, or led to a server that did not take us.
    pub(super) fn failed(&mut self, way: &Way, purpose: &Purpose, now: Instant) {
        self.settle(way, purpose);
        let random = (self.random)();
        match purpose {
            Purpose::Need => {
                self.entries.doubt(way);
                let pace = self.manner.pace;
                if self.standing(way) == Standing::Missing {
                    self.ways.failed(way, |failures| now + pace.backoff(failures, random));
                } else {
                    self.ways.unchanged(way, |looks| now + pace.rare(looks, random));
                }
            }
            Purpose::Search => {
                let failures = self.search.failures.saturating_add(1);
                self.search_again(now);
                self.search.failures = failures;
            }
            Purpose::Upgrade(id) => self.postpone_upgrade(id, now),
        }
        self.ways.list(&self.entries, now);
    }

    /// A server said that it is on its way out: another one is wanted for it,
    /// although the tunnel still stands.
    pub(super) fn draining(&mut self, server_id: &str, serial: u64, now: Instant) {
        if let Some(held) = self.held.get_mut(server_id)
            && held.serial == serial
        {
            held.draining = true;
            self.hurry(now);
        }
    }

    /// Nothing was heard of a server for too long: it counts as lost. False if
    /// another tunnel has taken the place of this one.
    pub(super) fn suspect(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        let Some(held) = self.take(server_id, serial, now) else { return false };
        self.suspects.insert(server_id.to_owned(), held);
        true
    }

    /// The server of a suspect tunnel was heard of again. False if another tunnel
    /// has taken its place.
    pub(super) fn back(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        if self.suspects.get(server_id).is_none_or(|held| held.serial != serial) {
            return false;
        }
        let Some(held) = self.suspects.remove(server_id) else { return false };
        self.ways.list(&self.entries, now);
        self.ways.gained(&held.way, server_id);
        self.held.insert(server_id.to_owned(), held);
        self.search_again(now);
        true
    }

    /// A tunnel is over. False if another one has taken its place.
    pub(super) fn ended(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        if self.suspects.get(server_id).is_some_and(|held| held.serial == serial) {
            // It counts as lost already.
            self.suspects.remove(server_id);
        } else if self.take(server_id, serial, now).is_none() {
            return false;
        }
        true
    }

    /// Takes a tunnel out of those held, if it is there.
    fn take(&mut self, server_id: &str, serial: u64, now: Instant) -> Option<Held> {
        if self.held.get(server_id)?.serial != serial {
            return None;
        }
        let held = self.held.remove(server_id)?;
        let lasted = now.saturating_duration_since(held.since) >= LASTED;
        self.entries.doubt(&held.way);
        self.ways.lost(&held.way);
        let (pace, random) = (self.manner.pace, &mut self.random);
        // Nobody is told of a death on QUIC: each agent finds out with its next word.
        let part = if held.link == Link::Quic && !held.draining { SPREAD_ALREADY } else { 1.0 };
        let next = |failures| now + pace.backoff(failures, random()).mul_f64(part);
        self.ways.unheld(server_id, &held.way, lasted, next);
        self.ways.list(&self.entries, now);
        self.hurry(now);
        Some(held)
    }

    /// The bookkeeping of every outcome.
    fn settle(&mut self, way: &Way, purpose: &Purpose) {
        self.ways.end(way);
        if *purpose == Purpose::Search {
            self.search.in_flight = false;
        }
    }

    /// All dials that are not in flight, with the time from which they are due.
    fn candidates(&self) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for (way, next) in self.ways.idle() {
            match self.standing(way) {
                Standing::Missing | Standing::Doubtful | Standing::Alias => {
                    candidates.push((next, Purpose::Need, way.clone()));
                }
                Standing::Holds | Standing::Gone => {}
            }
        }
        for (id, held) in &self.held {
            if let Some(at) = held.upgrade
                && !held.draining
                && self.ways.is_idle(&held.way)
            {
                candidates.push((at, Purpose::Upgrade(id.clone()), held.way.clone()));
            }
        }
        if let Some(at) = self.next_search()
            && let Some(way) = self.searchable()
        {
            candidates.push((at, Purpose::Search, way));
        }
        candidates
    }

    fn standing(&self, way: &Way) -> Standing {
        self.ways.standing(way, &self.entries, |id| self.held.contains_key(id))
    }
}
