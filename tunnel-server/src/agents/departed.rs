//! Agents that are gone or silent: for the errors of dials, for people, and for dials that wait for
//! their successors.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use super::routes::Routes;
use crate::canonical::canonical_host;

/// Agents that left and are remembered for the errors of dials. With fewer, errors say less after
/// the loss of many agents; more is memory.
const DEPARTED: usize = 1024;

/// Hosts of an agent by which it is remembered, and networks. A node has fewer than ten. With fewer,
/// errors do not name the agent, and dials do not wait for it; more is memory that an agent which comes
/// and goes can take, and time of each dial that finds nobody.
const TARGETS: usize = 16;

/// An agent's last sign of life.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastSign {
    pub(crate) agent: String,
    pub(crate) at: Instant,
}

/// The last agent of each host and network, and of all targets, as a number.
#[derive(Debug, Default)]
pub(super) struct Last {
    by_host: HashMap<Host, u64>,
    by_network: HashMap<Network, u64>,
    /// The lengths of the networks' prefixes, and the number of networks that have each.
    prefixes: BTreeMap<u8, usize>,
    default_route: Option<u64>,
    any: Option<u64>,
}

impl Last {
    /// Enters an agent under some of its targets. Returns its routes with those alone.
    pub(super) fn add(&mut self, number: u64, routes: &Arc<Routes>) -> Arc<Routes> {
        let some = routes.some(TARGETS);
        self.by_host.extend(some.hosts().map(|host| (canonical_host(host).into_owned(), number)));
        for network in some.networks() {
            if self.by_network.insert(network, number).is_none() {
                *self.prefixes.entry(network.bits()).or_default() += 1;
            }
        }
        if some.has_default_route() {
            self.default_route = Some(number);
        }
        if some.any {
            self.any = Some(number);
        }
        some
    }

    /// Takes an agent out again.
    pub(super) fn forget(&mut self, number: u64, some: &Routes) {
        for host in some.hosts().map(canonical_host) {
            if self.by_host.get(&*host) == Some(&number) {
                self.by_host.remove(&*host);
            }
        }
        for network in some.networks() {
            if self.by_network.get(&network) == Some(&number) {
                self.by_network.remove(&network);
                if let Entry::Occupied(mut networks) = self.prefixes.entry(network.bits()) {
                    *networks.get_mut() -= 1;
                    if *networks.get() == 0 {
                        networks.remove();
                    }
                }
            }
        }
        for last in [&mut self.default_route, &mut self.any] {
            last.take_if(|last| *last == number);
        }
    }

    pub(super) fn of(&self, host: &Host) -> Option<u64> {
        self.by_host.get(&canonical_host(host)).copied()
    }

    /// The last agents under the host, each network around it, and the routes for all targets. A look-up
    /// takes a step for each length of prefixes, however many agents there are.
    fn around(&self, host: &Host) -> impl Iterator<Item = u64> {
        let ip = match *canonical_host(host) {
            Host::Ip(ip) => Some(ip),
            Host::Name(_) => None,
        };
        let network = move |bits: &u8| self.by_network.get(&Network::of(ip?, *bits)?).copied();
        let networks = self.prefixes.keys().filter_map(network);
        networks.chain([self.of(host), self.default_route, self.any].into_iter().flatten())
    }
}

/// Agents that left.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Without their tunnels, which hold memory; the latest last.
    all: VecDeque<Gone>,
    /// The number of the first one; each has one more than that before it.
    first: u64,
    last: Last,
}

#[derive(Debug)]
struct Gone {
    at: Instant,
    id: String,
    routes: Arc<Routes>,
}

impl Gone {
    fn sign(&self) -> LastSign {
        LastSign { agent: self.id.clone(), at: self.at }
    }
}

impl Departed {
    pub(super) fn push(&mut self, id: &str, routes: &Arc<Routes>) {
        if self.all.len() == DEPARTED
            && let Some(oldest) = self.all.pop_front()
        {
            self.last.forget(self.first, &oldest.routes);
            self.first += 1;
        }
        let routes = self.last.add(self.first + self.all.len() as u64, routes);
        // The originals lie among the memory of the tunnel, which could not be given back.
        let routes = Arc::new(routes.copied());
        self.all.push_back(Gone { at: Instant::now(), id: id.to_owned(), routes });
    }

    pub(super) fn of(&self, host: &Host) -> Option<LastSign> {
        self.get(self.last.of(host)?).map(Gone::sign)
    }

    fn get(&self, number: u64) -> Option<&Gone> {
        self.all.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// The id, the routes and the time of each, the latest last.
    pub(super) fn each(&self, mut each: impl FnMut(&str, &Routes, Instant)) {
        self.all.iter().for_each(|gone| each(&gone.id, &gone.routes, gone.at));
    }

    /// Whether an agent around `host` whose routes are `wanted` left within `time`. Of several with one
    /// target, the last one counts.
    pub(super) fn any_within(&self, time: Duration, host: &Host, wanted: impl Fn(&Routes) -> bool) -> bool {
        let mut around = self.last.around(host).filter_map(|number| self.get(number));
        around.any(|gone| gone.at.elapsed() < time && wanted(&gone.routes))
    }

    pub(super) fn latest(&self) -> Option<LastSign> {
        self.all.back().map(Gone::sign)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use tunnel_proto::ident::{Identifiers, UnknownKeys};

    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_agents_that_are_forgotten() {
        let mut departed = Departed::default();
        for number in 0..3 * DEPARTED {
            let claims = format!("host=node-{number}&host=every&cidr=10.0.0.0/8&cidr=fd00::{number:x}/128");
            let claims = Arc::new(Identifiers::parse(&claims, UnknownKeys::Refuse).unwrap());
            departed.push("a", &Arc::new(Routes::as_claimed(claims)));
        }
        let Last { by_host, by_network, prefixes, .. } = &departed.last;
        assert_eq!(
            (departed.all.len(), by_host.len(), by_network.len()),
            (DEPARTED, DEPARTED + 1, DEPARTED + 1)
        );
        assert_eq!(*prefixes, BTreeMap::from([(8, 1), (128, DEPARTED)]));
        assert!(departed.of(&Host::parse("every").unwrap()).is_some());
        assert!(departed.of(&Host::parse("node-0").unwrap()).is_none());
    }

    #[tokio::test]
    async fn of_an_agent_with_many_targets_few_are_kept() {
        let claims: String = (0..250).map(|n| format!("&ipv4=10.0.0.{n}&cidr=10.1.{n}.0/24")).collect();
        let claims = Identifiers::parse(&format!("host=node{claims}&ipv4=x"), UnknownKeys::Refuse).unwrap();
        let mut departed = Departed::default();
        departed.push("a", &Arc::new(Routes::as_claimed(Arc::new(claims))));
        let kept = &departed.all[0].routes.claimed;
        assert_eq!((kept.hosts.len(), kept.cidrs.len(), kept.unusable.len()), (TARGETS, TARGETS, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn agents_that_left_are_found_by_every_kind_of_target() {
        let second = Duration::from_secs(1);
        let departed = |claims: &str, any| {
            let claims = Arc::new(Identifiers::parse(claims, UnknownKeys::Refuse).unwrap());
            let mut departed = Departed::default();
            departed.push("a", &Arc::new(Routes { any, ..Routes::as_claimed(claims) }));
            departed
        };
        let looked = AtomicUsize::new(0);
        let left = |departed: &Departed, host: &str| {
            departed.any_within(second, &Host::parse(host).unwrap(), |_| looked.fetch_add(1, Relaxed) == 0)
        };
        for (claims, any, host, found) in [
            ("host=Node", false, "node", true),
            ("host=node", false, "other", false),
            ("ipv4=10.0.0.1", false, "::ffff:10.0.0.1", true),
            ("cidr=10.1.0.0/16", false, "10.1.2.3", true),
            ("cidr=10.1.0.0/16", false, "10.2.2.3", false),
            ("cidr=fd00::/8", false, "fd00::7", true),
            ("default-route=true", false, "8.8.8.8", true),
            ("", true, "node", true),
            ("", false, "node", false),
        ] {
            let departed = departed(claims, any);
            looked.store(0, Relaxed);
            assert_eq!(left(&departed, host), found, "{claims} {any} {host}");
            tokio::time::advance(second).await;
            assert!(!left(&departed, host), "{claims} {any} {host}");
        }
        // Few are looked at, however many left.
        let mut many = Departed::default();
        for number in 0..DEPARTED {
            let claims = format!("cidr=10.0.0.0/8&cidr=10.{}.0.0/16&host=node-{number}", number % 200);
            let claims = Identifiers::parse(&claims, UnknownKeys::Refuse).unwrap();
            many.push("a", &Arc::new(Routes::as_claimed(Arc::new(claims))));
        }
        looked.store(1, Relaxed);
        assert!(!left(&many, "10.7.0.1"));
        assert_eq!(looked.load(Relaxed), 1 + 3, "two networks, and any target");
    }
}
