//! The choice of the agent that gets a dial, by strategies in the operator's order. A pure function
//! of the registered agents and the target.

mod why;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use rand::RngExt as _;
use tunnel_proto::network::Network;
use tunnel_proto::target::{Host, Target};

use crate::agents::AgentTunnel;

/// A way to find the agent of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Any agent.
    Default,
    /// Agents that are a default route.
    DefaultRoute,
    /// Agents with the longest network that contains the target's address.
    DestCidr,
    /// Agents with the target's host among their identifiers.
    DestHost,
}

impl Strategy {
    /// The name in flags, metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::DefaultRoute => "defaultRoute",
            Self::DestCidr => "destCIDR",
            Self::DestHost => "destHost",
        }
    }
}

/// The flag's strategies in order, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strategies(pub(crate) Vec<Strategy>);

impl FromStr for Strategies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Strategy::Default, Strategy::DefaultRoute, Strategy::DestCidr, Strategy::DestHost];
        let named = text.split(',').filter(|name| !name.is_empty());
        let strategies = named.map(|name| {
            let found = known.into_iter().find(|strategy| strategy.label() == name);
            found.ok_or_else(|| {
                format!("no strategy {name:?}: use default, destHost, destCIDR or defaultRoute")
            })
        });
        match strategies.collect::<Result<Vec<_>, _>>()? {
            none if none.is_empty() => Err("name at least one strategy".to_owned()),
            strategies => Ok(Self(strategies)),
        }
    }
}

/// Agents that are equally right for a target. Those that drain are last.
#[derive(Debug, Default)]
struct Group {
    agents: Vec<Arc<AgentTunnel>>,
    /// Number of agents at the front that do not drain.
    ready: usize,
}

/// The usable agents at one moment, one tunnel each, indexed for the strategies.
#[derive(Debug, Default)]
pub struct View {
    all: Group,
    default_route: Group,
    by_host: HashMap<Host, Group>,
    by_network: HashMap<Network, Group>,
    /// The lengths of the networks' prefixes, longest first. A look-up takes at most one step
    /// for each.
    prefixes: Vec<u8>,
}

impl View {
    pub(crate) fn new(agents: impl Iterator<Item = Arc<AgentTunnel>>) -> Self {
        let mut view = Self::default();
        for agent in agents {
            if agent.identifiers.default_route {
                view.default_route.add(&agent);
            }
            for host in &agent.identifiers.hosts {
                view.by_host.entry(host.clone()).or_default().add(&agent);
            }
            for network in &agent.identifiers.cidrs {
                view.by_network.entry(*network).or_default().add(&agent);
            }
            view.all.add(&agent);
        }
        view.prefixes = view.by_network.keys().map(Network::bits).collect();
        view.prefixes.sort_unstable_by(|a, b| b.cmp(a));
        view.prefixes.dedup();
        view
    }

    pub(crate) fn agents(&self) -> &[Arc<AgentTunnel>] {
        &self.all.agents
    }

    /// The number of a strategy's entries: hosts, networks, or agents.
    pub(crate) fn size(&self, strategy: Strategy) -> usize {
        match strategy {
            Strategy::Default => self.all.agents.len(),
            Strategy::DefaultRoute => self.default_route.agents.len(),
            Strategy::DestCidr => self.by_network.len(),
            Strategy::DestHost => self.by_host.len(),
        }
    }

    /// The agents that a strategy can use for some target, possibly more than once each.
    pub(crate) fn usable(&self, strategy: Strategy) -> Box<dyn Iterator<Item = &Arc<AgentTunnel>> + '_> {
        match strategy {
            Strategy::Default => Box::new(self.all.agents.iter()),
            Strategy::DefaultRoute => Box::new(self.default_route.agents.iter()),
            Strategy::DestCidr => Box::new(self.by_network.values().flat_map(|group| &group.agents)),
            Strategy::DestHost => Box::new(self.by_host.values().flat_map(|group| &group.agents)),
        }
    }

    /// A usable agent for a target, chosen by one strategy.
    fn pick(
        &self,
        strategy: Strategy,
        target: &Target,
        usable: impl Fn(&Arc<AgentTunnel>) -> bool,
    ) -> Option<&Arc<AgentTunnel>> {
        match (strategy, target.host()) {
            (Strategy::Default, _) => self.all.pick(usable),
            (Strategy::DefaultRoute, _) => self.default_route.pick(usable),
            (Strategy::DestHost, host) => self.by_host.get(host)?.pick(usable),
            (Strategy::DestCidr, Host::Name(_)) => None,
            (Strategy::DestCidr, Host::Ip(ip)) => self
                .prefixes
                .iter()
                .filter_map(|&bits| self.by_network.get(&Network::of(*ip, bits)?))
                .find_map(|group| group.pick(&usable)),
        }
    }
}

impl Group {
    fn add(&mut self, agent: &Arc<AgentTunnel>) {
        // An agent that names a host twice is added once. The agent that was added last is the
        // last of all or the last that does not drain.
        let last = [self.agents.len().checked_sub(1), self.ready.checked_sub(1)];
        if last.into_iter().flatten().any(|at| Arc::ptr_eq(&self.agents[at], agent)) {
            return;
        }
        self.agents.push(Arc::clone(agent));
        if !agent.is_draining() {
            let last = self.agents.len() - 1;
            self.agents.swap(self.ready, last);
            self.ready += 1;
        }
    }

    /// An agent that does not drain, or else one that does; stuck ones come after both, because a
    /// dial would only wait there.
    fn pick(&self, usable: impl Fn(&Arc<AgentTunnel>) -> bool) -> Option<&Arc<AgentTunnel>> {
        let (ready, draining) = self.agents.split_at(self.ready);
        let takes = |agent: &Arc<AgentTunnel>| usable(agent) && !agent.is_stuck();
        pick_of(ready, takes)
            .or_else(|| pick_of(draining, takes))
            .or_else(|| pick_of(ready, &usable))
            .or_else(|| pick_of(draining, &usable))
    }
}

/// The strategies of a server, in order.
#[derive(Debug, Clone)]
pub struct Router {
    strategies: Vec<Strategy>,
}

impl Router {
    /// A router that tries the strategies in this order.
    pub const fn new(strategies: Vec<Strategy>) -> Self {
        Self { strategies }
    }

    pub(crate) fn strategies(&self) -> &[Strategy] {
        &self.strategies
    }

    /// The agent for a target, never `not`. The first strategy with a usable agent decides, even
    /// if all its agents drain: those of a later one possibly do not reach the target. Of two
    /// random equals, the one with fewer streams is picked.
    pub fn pick(
        &self,
        view: &View,
        target: &Target,
        not: Option<&Arc<AgentTunnel>>,
    ) -> Option<Arc<AgentTunnel>> {
        let usable = |agent: &Arc<AgentTunnel>| not.is_none_or(|not| !Arc::ptr_eq(agent, not));
        self.strategies.iter().find_map(|&strategy| view.pick(strategy, target, usable)).map(Arc::clone)
    }
}

/// Power of two choices. Agents that are not usable, in practice few, are stepped over.
fn pick_of(
    agents: &[Arc<AgentTunnel>],
    usable: impl Fn(&Arc<AgentTunnel>) -> bool,
) -> Option<&Arc<AgentTunnel>> {
    if agents.is_empty() {
        return None;
    }
    let mut rng = rand::rng();
    let mut try_one = || {
        let (before, from) = agents.split_at(rng.random_range(0..agents.len()));
        from.iter().chain(before).find(|agent| usable(agent))
    };
    let (first, second) = (try_one()?, try_one()?);
    Some(if second.streams() < first.streams() { second } else { first })
}

#[cfg(test)]
mod tests;
