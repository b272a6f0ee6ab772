//! The plan in simulated worlds of servers, load balancers and names.

mod entries;
mod leases;
mod losses;
mod names;
mod properties;
mod renewals;
mod searches;
mod silences;
mod upgrades;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use tunnel::transport::Link;

use tunnel_kube::leases::Counted;
use tunnel_proto::message::Welcome;

use super::{AT_ONCE, Action, Attempt, Demand, Manner, Plan, Purpose, Silenced, Verdict};
use crate::config::{CountSource, ServerAddr};
use crate::course::{Course, Order};
use crate::fleet::pace::Pace;

const INTERVAL: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(10);

/// Durations of an attempt with an answer and without.
const QUICK: Duration = Duration::from_millis(20);
const NEVER: Duration = Duration::from_secs(10);

/// The peer behind an address.
#[derive(Debug, Clone)]
enum Behind {
    /// A load balancer that picks at random; with one server, that server.
    Servers(Vec<&'static str>),
    /// Nobody listens.
    Refuses,
    /// Nobody answers.
    Silent,
}

/// A dial that was made.
#[derive(Debug, Clone)]
struct Dialled {
    at: Instant,
    addr: SocketAddr,
    purpose: Purpose,
    /// The server it found.
    found: Option<String>,
}

#[derive(Debug, Clone)]
enum Pending {
    Dial(Attempt, Course),
    Lookup(ServerAddr),
}

/// A world, and an agent's plan in it.
struct World {
    plan: Plan,
    now: Instant,
    random: StdRng,
    behind: BTreeMap<SocketAddr, Behind>,
    /// The addresses of names; others do not resolve.
    names: BTreeMap<String, Vec<SocketAddr>>,
    /// The count that every server tells, and those of others.
    count: Option<u32>,
    counts: BTreeMap<&'static str, u32>,
    /// The link that wins a race.
    link: Link,
    /// Whether servers ask for h2.
    told: bool,
    pending: Vec<(Instant, Pending)>,
    tunnels: BTreeMap<u64, String>,
    /// Tunnels on h2 beside one on QUIC.
    spares: BTreeMap<u64, String>,
    /// Tunnels to silent servers.
    suspects: BTreeMap<u64, String>,
    dialled: Vec<Dialled>,
    lookups: usize,
}

fn addr(n: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 0, 0, n), 8091).into()
}

fn listed(host: &str) -> ServerAddr {
    ServerAddr { host: host.to_owned(), port: 8091 }
}

fn one(server: &'static str) -> Behind {
    Behind::Servers(vec![server])
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn set(ids: &[&'static str]) -> BTreeSet<&'static str> {
    ids.iter().copied().collect()
}

/// The settings of most agents.
fn manner() -> Manner {
    Manner { pace: Pace::new(INTERVAL, CAP), forever: false, upgrades: false }
}

impl World {
    fn new(hosts: &[&str], seed: u64) -> Self {
        Self::of(hosts, manner(), CountSource::Default, seed)
    }

    fn of(hosts: &[&str], manner: Manner, source: CountSource, seed: u64) -> Self {
        let servers: Vec<_> = hosts.iter().map(|host| listed(host)).collect();
        let now = Instant::now();
        let mut random = StdRng::seed_from_u64(seed);
        let random_of_plan = Box::new(move || random.random());
        Self {
            plan: Plan::new(&servers, Demand::new(source), manner, random_of_plan, now),
            now,
            random: StdRng::seed_from_u64(!seed),
            behind: BTreeMap::new(),
            names: BTreeMap::new(),
            count: None,
            counts: BTreeMap::new(),
            link: Link::Quic,
            told: false,
            pending: Vec::new(),
            tunnels: BTreeMap::new(),
            spares: BTreeMap::new(),
            suspects: BTreeMap::new(),
            dialled: Vec::new(),
            lookups: 0,
        }
    }

    /// Sets the peer behind 10.0.0.n.
    fn put(&mut self, n: u8, behind: Behind) {
        self.behind.insert(addr(n), behind);
    }

    /// So many Leases are valid, and these addresses, 10.0.0.n, stand in them.
    fn lease(&mut self, servers: u32, addresses: &[u8]) {
        let addresses = addresses.iter().copied().map(addr).collect();
        self.plan.leased(&Counted { servers, addresses }, self.now);
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.act();
            let next = self.pending.iter().map(|(at, _)| *at).chain(self.plan.wake()).min();
            match next {
                Some(next) if next <= until => self.now = next.max(self.now),
                Some(_) | None => break,
            }
            self.report();
        }
        self.now = until;
    }

    fn act(&mut self) {
        for action in self.plan.due(self.now) {
            let (delay, pending) = match action {
                Action::Resolve(server) => (QUICK, Pending::Lookup(server)),
                Action::Dial(attempt, course) => {
                    let answers = !matches!(self.behind.get(&attempt.endpoint.addr), Some(Behind::Silent));
                    (if answers { QUICK } else { NEVER }, Pending::Dial(attempt, course))
                }
                Action::Retire(serial) => {
                    assert!(!self.tunnels.contains_key(&serial), "{serial} is in use");
                    self.spares.remove(&serial);
                    continue;
                }
            };
            self.pending.push((self.now + delay, pending));
        }
        assert_eq!(self.plan.due(self.now), [], "nothing is due twice");
        assert!(self.plan.wake().is_none_or(|at| at > self.now), "a plan that wakes has something to do");
        let mut dialling = BTreeSet::new();
        for (_, pending) in &self.pending {
            if let Pending::Dial(Attempt { endpoint, .. }, _) = pending {
                assert!(dialling.insert(endpoint.clone()), "two attempts at {endpoint}");
            }
        }
        assert!(dialling.len() <= AT_ONCE);
    }

    fn report(&mut self) {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.pending).into_iter().partition(|(at, _)| *at <= now);
        self.pending = later;
        for (_, pending) in due {
            match pending {
                Pending::Lookup(server) => {
                    self.lookups += 1;
                    let addrs = self.names.get(&server.host).cloned();
                    self.plan.resolved(&server, addrs.as_deref(), now);
                }
                Pending::Dial(attempt, course) => self.dialled(&attempt, course),
            }
        }
    }

    fn dialled(&mut self, attempt: &Attempt, course: Course) {
        let Attempt { purpose, endpoint } = attempt;
        let found = match self.behind.get(&endpoint.addr) {
            Some(Behind::Servers(servers)) => {
                Some(servers[self.random.random_range(0..servers.len())].to_owned())
            }
            Some(Behind::Refuses | Behind::Silent) | None => None,
        };
        let link = match course.order {
            Order::QuicOnly => Link::Quic,
            Order::H2Only | Order::H2First => Link::H2,
            Order::Race | Order::H2Ahead => self.link,
        };
        self.dialled.push(Dialled {
            at: self.now,
            addr: endpoint.addr,
            purpose: purpose.clone(),
            found: found.clone(),
        });
        let Some(id) = found else { return self.plan.failed(attempt, self.now) };
        let known = self.plan.held().any(|held| held == id) && !purpose.replaces(&id);
        // Half of the servers notice a duplicate; the plan notices the others.
        if known && self.random.random() {
            self.plan.duplicate(attempt, &id, self.now);
            return;
        }
        let count = self.counts.get(id.as_str()).copied().or(self.count).unwrap_or(0);
        let welcome = Welcome {
            server_id: id.clone(),
            server_count: count,
            transport: if self.told { "h2".to_owned() } else { String::new() },
            ..Welcome::default()
        };
        match self.plan.connected(attempt, &welcome, link, self.now) {
            Verdict::Duplicate => assert!(known, "{id} is not held"),
            Verdict::Keep { serial, replaces } => {
                assert!(!known, "{id} is held already");
                let suspects = self.suspects.extract_if(.., |_, of| *of == id).map(|(serial, _)| serial);
                let mut old: Vec<u64> = suspects.collect();
                if purpose.replaces(&id) {
                    let held: Vec<_> = self.tunnels.extract_if(.., |_, of| *of == id).collect();
                    if link == Link::Quic && matches!(purpose, Purpose::Upgrade(_)) {
                        self.spares.extend(held);
                    } else {
                        old.extend(held.into_iter().map(|(serial, _)| serial));
                    }
                }
                assert_eq!(old, replaces.into_iter().collect::<Vec<_>>());
                self.tunnels.insert(serial, id);
            }
        }
    }

    /// A server dies: its tunnels end. The peers behind addresses stay.
    fn lose(&mut self, id: &str) {
        let (lost, left) = std::mem::take(&mut self.tunnels).into_iter().partition(|(_, of)| of == id);
        self.tunnels = left;
        let lost: BTreeMap<u64, String> = lost;
        assert!(!lost.is_empty(), "there is no tunnel to {id}");
        let spares = self.spares.extract_if(.., |_, of| of == id).map(|(serial, _)| serial);
        for serial in lost.into_keys().chain(spares.collect::<Vec<_>>()) {
            self.plan.ended(id, serial, self.now);
        }
    }

    /// The tunnel to a server falls silent. The peers behind addresses stay.
    fn silence(&mut self, id: &str) {
        let (silent, left) = std::mem::take(&mut self.tunnels).into_iter().partition(|(_, of)| of == id);
        self.tunnels = left;
        let silent: BTreeMap<u64, String> = silent;
        let spares: Vec<_> = self.spares.extract_if(.., |_, of| of == id).collect();
        for (serial, id) in silent {
            if spares.is_empty() {
                assert_eq!(self.plan.suspect(&id, serial, self.now), Silenced::Lost);
                self.suspects.insert(serial, id);
            } else {
                assert_eq!(self.plan.suspect(&id, serial, self.now), Silenced::Spared);
            }
        }
        self.tunnels.extend(spares);
    }

    /// All silent servers are heard of again.
    fn hear(&mut self) {
        for (serial, id) in std::mem::take(&mut self.suspects) {
            assert!(self.plan.back(&id, serial, self.now));
            self.tunnels.insert(serial, id);
        }
    }

    /// All silent servers are given up.
    fn give_up(&mut self) {
        for (serial, id) in std::mem::take(&mut self.suspects) {
            assert!(self.plan.ended(&id, serial, self.now));
        }
    }

    /// A server announces its drain.
    fn drain(&mut self, id: &str) {
        for (serial, of) in &self.tunnels {
            if of == id {
                self.plan.draining(id, *serial, self.now);
            }
        }
    }

    /// Servers to which there is a tunnel.
    fn held(&self) -> BTreeSet<&str> {
        let held: BTreeSet<&str> = self.tunnels.values().map(String::as_str).collect();
        assert_eq!(held, self.plan.held().collect());
        assert_eq!(held.len(), self.tunnels.len(), "one tunnel per server");
        held
    }

    fn numbers(&self) -> (usize, usize) {
        self.plan.numbers()
    }

    /// Number of dials in the next `time`.
    fn count_dials(&mut self, time: Duration) -> usize {
        self.dialled.clear();
        self.pass(time);
        self.dialled.len()
    }
}
