//! Which agent gets a dial: strategies in the operator's order, pure functions
//! of the registered agents and the target.

use std::collections::HashMap;
use std::sync::Arc;

use clap::ValueEnum;
use rand::RngExt as _;
use tunnel_proto::target::{Host, Target};

use crate::agents::Agent;

/// One way to find an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Strategy {
    /// Any agent.
    #[value(name = "default")]
    Default,
    /// Agents that named themselves as the default route.
    #[value(name = "defaultRoute")]
    DefaultRoute,
    /// Agents that named the target's host among their identifiers.
    #[value(name = "destHost")]
    DestHost,
}

/// The agents at one moment, indexed for the strategies. Per agent id only the
/// newest tunnel is in it.
#[derive(Debug, Default)]
pub struct View {
    all: Vec<Arc<Agent>>,
    default_route: Vec<Arc<Agent>>,
    by_host: HashMap<Host, Vec<Arc<Agent>>>,
}

impl View {
    /// Indexes agents.
    pub fn new(agents: impl Iterator<Item = Arc<Agent>>) -> Self {
        let mut view = Self::default();
        for agent in agents {
            if agent.identifiers.default_route {
                view.default_route.push(Arc::clone(&agent));
            }
            for host in &agent.identifiers.hosts {
                view.by_host.entry(host.clone()).or_default().push(Arc::clone(&agent));
            }
            view.all.push(agent);
        }
        view
    }

    /// All agents.
    pub fn agents(&self) -> &[Arc<Agent>] {
        &self.all
    }

    /// How many agents (or, for `destHost`, identifiers) a strategy can use.
    pub fn size(&self, strategy: Strategy) -> usize {
        match strategy {
            Strategy::Default => self.all.len(),
            Strategy::DefaultRoute => self.default_route.len(),
            Strategy::DestHost => self.by_host.len(),
        }
    }

    /// The agents that a strategy can use for some target; one may come more
    /// than once.
    pub fn usable(&self, strategy: Strategy) -> Box<dyn Iterator<Item = &Arc<Agent>> + '_> {
        match strategy {
            Strategy::Default => Box::new(self.all.iter()),
            Strategy::DefaultRoute => Box::new(self.default_route.iter()),
            Strategy::DestHost => Box::new(self.by_host.values().flatten()),
        }
    }

    fn candidates(&self, strategy: Strategy, target: &Target) -> &[Arc<Agent>] {
        match strategy {
            Strategy::Default => &self.all,
            Strategy::DefaultRoute => &self.default_route,
            Strategy::DestHost => self.by_host.get(target.host()).map_or(&[], Vec::as_slice),
        }
    }
}

/// The strategies of a server, in order.
#[derive(Debug, Clone)]
pub struct Router {
    strategies: Vec<Strategy>,
}

impl Router {
    /// A router that asks the strategies in this order.
    pub const fn new(strategies: Vec<Strategy>) -> Self {
        Self { strategies }
    }

    /// The strategies.
    pub fn strategies(&self) -> &[Strategy] {
        &self.strategies
    }

    /// The agent for a target, or `None`. The first strategy that knows a
    /// usable agent decides; among its agents, of two taken at random the one
    /// with fewer streams. Draining agents are used only when there is no
    /// other, and `not` never.
    pub fn pick(&self, view: &View, target: &Target, not: Option<&Arc<Agent>>) -> Option<Arc<Agent>> {
        let usable = |agent: &Arc<Agent>| not.is_none_or(|not| !Arc::ptr_eq(agent, not));
        let by = |accept: &dyn Fn(&Arc<Agent>) -> bool| {
            self.strategies.iter().find_map(|&strategy| pick_of(view.candidates(strategy, target), accept))
        };
        by(&|agent| usable(agent) && !agent.is_draining()).or_else(|| by(&usable))
    }
}

/// Power of two choices. With many candidates that do not qualify, a few
/// random tries are followed by a scan, so one is found if there is one.
fn pick_of(agents: &[Arc<Agent>], accept: &dyn Fn(&Arc<Agent>) -> bool) -> Option<Arc<Agent>> {
    let mut rng = rand::rng();
    let mut try_one = || {
        let start = rng.random_range(0..agents.len());
        agents.iter().cycle().skip(start).take(agents.len()).find(|agent| accept(agent))
    };
    if agents.is_empty() {
        return None;
    }
    let (first, second) = (try_one()?, try_one()?);
    let fewer = if second.streams() < first.streams() { second } else { first };
    Some(Arc::clone(fewer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel_proto::ident::{Identifiers, UnknownKeys};

    fn agent(id: &str, identifiers: &str) -> Arc<Agent> {
        let identifiers = Identifiers::parse(identifiers, UnknownKeys::Ignore).unwrap();
        Arc::new(Agent::detached(id, identifiers))
    }

    fn picked(strategies: &[Strategy], agents: &[Arc<Agent>], target: &str) -> Vec<String> {
        let view = View::new(agents.iter().cloned());
        let router = Router::new(strategies.to_vec());
        let target = target.parse().unwrap();
        let mut ids: Vec<String> = (0..100)
            .filter_map(|_| router.pick(&view, &target, None))
            .map(|agent| agent.id.clone())
            .collect();
        ids.sort();
        ids.dedup();
        ids
    }

    #[test]
    fn strategies_are_asked_in_order_and_the_first_that_knows_an_agent_decides() {
        use Strategy::{Default, DefaultRoute, DestHost};
        let agents = [
            agent("a", "host=node-a&ipv4=10.0.0.1"),
            agent("b", "ipv6=fd00::1"),
            agent("r", "default-route=true"),
        ];
        assert_eq!(picked(&[DestHost, Default], &agents, "10.0.0.1:80"), ["a"]);
        assert_eq!(picked(&[DestHost, Default], &agents, "NODE-A:80"), ["a"]);
        assert_eq!(picked(&[DestHost, Default], &agents, "[fd00:0::1]:80"), ["b"]);
        assert_eq!(picked(&[DestHost, DefaultRoute, Default], &agents, "10.9.9.9:80"), ["r"]);
        assert_eq!(picked(&[DestHost, Default], &agents, "10.9.9.9:80"), ["a", "b", "r"]);
        assert_eq!(picked(&[DestHost], &agents, "10.9.9.9:80"), [""; 0]);
        assert_eq!(picked(&[DefaultRoute], &agents[..2], "10.0.0.1:80"), [""; 0]);
        assert_eq!(picked(&[Default], &[], "10.0.0.1:80"), [""; 0]);
    }

    #[test]
    fn draining_agents_come_last_even_before_the_next_strategy() {
        use Strategy::{Default, DestHost};
        let agents = [agent("a", "ipv4=10.0.0.1"), agent("b", "ipv4=10.0.0.1"), agent("c", "")];
        agents[0].set_draining();
        assert_eq!(picked(&[DestHost, Default], &agents, "10.0.0.1:80"), ["b"]);
        agents[1].set_draining();
        assert_eq!(picked(&[DestHost, Default], &agents, "10.0.0.1:80"), ["c"]);
        agents[2].set_draining();
        assert_eq!(picked(&[DestHost, Default], &agents, "10.0.0.1:80"), ["a", "b"]);
    }

    #[test]
    fn the_excluded_agent_is_never_picked_and_load_decides() {
        let agents = [agent("a", ""), agent("b", "")];
        let view = View::new(agents.iter().cloned());
        let router = Router::new(vec![Strategy::Default]);
        let target = "10.0.0.1:80".parse().unwrap();
        for _ in 0..50 {
            assert_eq!(router.pick(&view, &target, Some(&agents[0])).unwrap().id, "b");
        }
        let only = View::new(agents[..1].iter().cloned());
        assert!(router.pick(&only, &target, Some(&agents[0])).is_none());

        let _streams: Vec<_> = (0..10).map(|_| agents[0].count_stream()).collect();
        let chosen = (0..1000).filter(|_| router.pick(&view, &target, None).unwrap().id == "b").count();
        assert!(chosen > 600, "the idle agent was chosen only {chosen} times of 1000");
    }
}
