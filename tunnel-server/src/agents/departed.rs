//! Agents that are gone or silent: for the errors of dials, for people, and for dials that wait for
//! their successors.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
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

/// The last agent of each host, as a number.
#[derive(Debug, Default)]
pub(super) struct Last(HashMap<Host, u64>);

impl Last {
    /// Enters an agent under some of its hosts. Returns its routes with those alone.
    pub(super) fn add(&mut self, number: u64, routes: &Arc<Routes>) -> Arc<Routes> {
        let some = routes.some(TARGETS);
        self.0.extend(some.hosts().map(|host| (canonical_host(host).into_owned(), number)));
        some
    }

    /// Takes an agent out again.
    pub(super) fn forget(&mut self, number: u64, some: &Routes) {
        for host in some.hosts().map(canonical_host) {
            if self.0.get(&*host) == Some(&number) {
                self.0.remove(&*host);
            }
        }
    }

    pub(super) fn of(&self, host: &Host) -> Option<u64> {
        self.0.get(&canonical_host(host)).copied()
    }
}

/// Agents that left.
#[derive(Debug, Default)]
pub(super) struct Departed {
    /// Without their tunnels, which hold memory; the latest last.
    all: VecDeque<Gone>,
    /// The number of the first one; each has one more than that before it.
    first: u64,
    by_host: Last,
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
            self.by_host.forget(self.first, &oldest.routes);
            self.first += 1;
        }
        let routes = self.by_host.add(self.first + self.all.len() as u64, routes);
        // The originals lie among the memory of the tunnel, which could not be given back.
        let routes = Arc::new(routes.copied());
        self.all.push_back(Gone { at: Instant::now(), id: id.to_owned(), routes });
    }

    pub(super) fn of(&self, host: &Host) -> Option<LastSign> {
        let at = usize::try_from(self.by_host.of(host)? - self.first).ok()?;
        self.all.get(at).map(Gone::sign)
    }

    /// The id, the routes and the time of each, the latest last.
    pub(super) fn each(&self, mut each: impl FnMut(&str, &Routes, Instant)) {
        self.all.iter().for_each(|gone| each(&gone.id, &gone.routes, gone.at));
    }

    /// Whether an agent whose routes are `wanted` left within `time`.
    pub(super) fn any_within(&self, time: Duration, wanted: impl Fn(&Routes) -> bool) -> bool {
        let mut recent = self.all.iter().rev().take_while(|gone| gone.at.elapsed() < time);
        recent.any(|gone| wanted(&gone.routes))
    }

    pub(super) fn last(&self) -> Option<LastSign> {
        self.all.back().map(Gone::sign)
    }
}

#[cfg(test)]
mod tests {
    use tunnel_proto::ident::{Identifiers, UnknownKeys};

    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_agents_that_are_forgotten() {
        let mut departed = Departed::default();
        for number in 0..3 * DEPARTED {
            let claims = format!("host=node-{number}&host=every");
            let claims = Arc::new(Identifiers::parse(&claims, UnknownKeys::Refuse).unwrap());
            departed.push("a", &Arc::new(Routes::as_claimed(claims)));
        }
        assert_eq!((departed.all.len(), departed.by_host.0.len()), (DEPARTED, DEPARTED + 1));
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
        let left = |host: &str| {
            let host = Host::parse(host).unwrap();
            departed.any_within(Duration::from_secs(1), |routes| routes.hosts().any(|one| *one == host))
        };
        assert!(left("node") && !left("10.0.0.249"));
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!left("node"));
    }
}
