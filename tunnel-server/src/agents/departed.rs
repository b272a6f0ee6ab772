//! Agents that are gone or silent, for the errors of dials and for people.

use std::collections::{HashMap, VecDeque};

use tokio::time::Instant;
use tunnel_proto::target::Host;

use super::routes::Routes;
use crate::canonical::canonical_host;

/// Agents that left and are remembered for the errors of dials. With fewer, errors say less after
/// the loss of many agents; more is memory.
const DEPARTED: usize = 1024;

/// Hosts of an agent by which it is remembered. A node has fewer than ten. With fewer, errors do not
/// name the agent; more is memory that an agent which comes and goes can take.
const HOSTS: usize = 16;

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
    /// Enters an agent under some of its hosts, and returns those.
    pub(super) fn add(&mut self, number: u64, routes: &Routes) -> Vec<Host> {
        let hosts: Vec<_> =
            routes.hosts().take(HOSTS).map(|host| canonical_host(host).into_owned()).collect();
        self.0.extend(hosts.iter().map(|host| (host.clone(), number)));
        hosts
    }

    /// Takes an agent out again.
    pub(super) fn forget(&mut self, number: u64, hosts: &[Host]) {
        for host in hosts {
            if self.0.get(host) == Some(&number) {
                self.0.remove(host);
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
    hosts: Vec<Host>,
}

impl Gone {
    fn sign(&self) -> LastSign {
        LastSign { agent: self.id.clone(), at: self.at }
    }
}

impl Departed {
    pub(super) fn push(&mut self, id: &str, routes: &Routes) {
        if self.all.len() == DEPARTED
            && let Some(oldest) = self.all.pop_front()
        {
            self.by_host.forget(self.first, &oldest.hosts);
            self.first += 1;
        }
        let hosts = self.by_host.add(self.first + self.all.len() as u64, routes);
        self.all.push_back(Gone { at: Instant::now(), id: id.to_owned(), hosts });
    }

    pub(super) fn of(&self, host: &Host) -> Option<LastSign> {
        let at = usize::try_from(self.by_host.of(host)? - self.first).ok()?;
        self.all.get(at).map(Gone::sign)
    }

    /// The id, the hosts and the time of each, the latest last.
    pub(super) fn each(&self, mut each: impl FnMut(&str, &[Host], Instant)) {
        self.all.iter().for_each(|gone| each(&gone.id, &gone.hosts, gone.at));
    }

    pub(super) fn last(&self) -> Option<LastSign> {
        self.all.back().map(Gone::sign)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tunnel_proto::ident::{Identifiers, UnknownKeys};

    use super::*;

    #[tokio::test]
    async fn nothing_is_kept_of_agents_that_are_forgotten() {
        let mut departed = Departed::default();
        for number in 0..3 * DEPARTED {
            let claims = format!("host=node-{number}&host=every");
            let claims = Arc::new(Identifiers::parse(&claims, UnknownKeys::Refuse).unwrap());
            departed.push("a", &Routes::as_claimed(claims));
        }
        assert_eq!((departed.all.len(), departed.by_host.0.len()), (DEPARTED, DEPARTED + 1));
        assert!(departed.of(&Host::parse("every").unwrap()).is_some());
        assert!(departed.of(&Host::parse("node-0").unwrap()).is_none());
    }
}
