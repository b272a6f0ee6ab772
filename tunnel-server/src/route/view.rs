//! The usable agents at one moment, indexed for the strategies.
//!
//! Proven routes and claimed ones have a table each. A target that an identity proves is never
//! found among the claims of others, not even while the identity's own agents are silent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rand::RngExt as _;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use super::Strategy;
use crate::agents::{AgentTunnel, Routes, Usable};
use crate::canonical::{canonical_host, canonical_network};

/// Agents that are equally right for a target. Those that drain are last.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) agents: Vec<Arc<AgentTunnel>>,
    /// Number of agents at the front that do not drain.
    pub(super) ready: usize,
}

/// Routes of one kind. A group without agents is owned by an identity whose agents are not usable.
#[derive(Debug, Default)]
pub(super) struct Table {
    default_route: Group,
    pub(super) by_host: HashMap<Host, Group>,
    by_network: HashMap<Network, Group>,
    /// The lengths of the networks' prefixes, longest first. A look-up takes at most one step
    /// for each.
    prefixes: Vec<u8>,
}

/// The usable agents at one moment, one tunnel each but for twins, indexed for the strategies.
#[derive(Debug, Default)]
pub struct View {
    agents: Vec<Arc<AgentTunnel>>,
    /// The agents that [`Strategy::Default`] may choose.
    any: Group,
    proven: Table,
    pub(super) claimed: Table,
    twins: usize,
}

impl View {
    /// As [`View::of`], of agents with all their routes.
    #[cfg(test)]
    pub(super) fn new(agents: Vec<Arc<AgentTunnel>>, registered: &[Arc<Routes>]) -> Self {
        let agents = agents.into_iter().map(|agent| (Arc::clone(&agent), agent.routes())).collect();
        Self::of(Usable { agents, twins: 0 }, registered)
    }

    /// `registered` are the routes of all agents, the unusable ones included.
    pub(crate) fn of(usable: Usable, registered: &[Arc<Routes>]) -> Self {
        let (agents, routes): (Vec<_>, Vec<_>) = usable.agents.into_iter().unzip();
        let mut view = Self { twins: usable.twins, ..Self::default() };
        for (agent, routes) in agents.iter().zip(&routes) {
            view.proven.add(agent, &routes.proven, |_| true, |_| true);
            if routes.any {
                view.any.add(agent);
            }
        }
        let claims = |routes: &Arc<Routes>| !routes.claimed.is_empty();
        if routes.iter().any(claims) {
            registered.iter().for_each(|routes| view.proven.own(&routes.proven));
            view.proven.finish();
            let Self { proven, claimed, .. } = &mut view;
            for (agent, routes) in agents.iter().zip(&routes) {
                let free = |host: &Host| !proven.owns(host);
                claimed.add(agent, &routes.claimed, free, |network| !proven.contains(*network));
            }
            claimed.finish();
        }
        view.proven.finish();
        view.agents = agents;
        view
    }

    pub(crate) fn agents(&self) -> &[Arc<AgentTunnel>] {
        &self.agents
    }

    /// Number of tunnels beside a newer one of the same agent id from another host.
    pub(crate) const fn twins(&self) -> usize {
        self.twins
    }

    /// The number of a strategy's entries: hosts, networks, or agents.
    pub(crate) fn size(&self, strategy: Strategy) -> usize {
        let tables = [&self.proven, &self.claimed].into_iter();
        match strategy {
            Strategy::Default => self.any.agents.len(),
            Strategy::DefaultRoute => tables.map(|table| table.default_route.agents.len()).sum(),
            Strategy::DestCidr => tables.map(|table| in_use(table.by_network.values())).sum(),
            Strategy::DestHost => tables.map(|table| in_use(table.by_host.values())).sum(),
        }
    }

    /// The agents that a strategy can use for some target, possibly more than once each.
    pub(crate) fn usable(&self, strategy: Strategy) -> Box<dyn Iterator<Item = &Arc<AgentTunnel>> + '_> {
        let tables = [&self.proven, &self.claimed].into_iter();
        match strategy {
            Strategy::Default => Box::new(self.any.agents.iter()),
            Strategy::DefaultRoute => Box::new(tables.flat_map(|table| &table.default_route.agents)),
            Strategy::DestCidr => {
                Box::new(tables.flat_map(|table| table.by_network.values().flat_map(|group| &group.agents)))
            }
            Strategy::DestHost => {
                Box::new(tables.flat_map(|table| table.by_host.values().flat_map(|group| &group.agents)))
            }
        }
    }

    /// A usable agent for a host in canonical form, chosen by one strategy.
    pub(crate) fn pick(
        &self,
        strategy: Strategy,
        host: &Host,
        usable: impl Fn(&Arc<AgentTunnel>) -> bool,
    ) -> Option<&Arc<AgentTunnel>> {
        let Self { proven, claimed, .. } = self;
        match (strategy, host) {
            (Strategy::Default, _) => self.any.pick(usable),
            (Strategy::DefaultRoute, host) => proven.default_route.pick(&usable).or_else(|| {
                let claims = &claimed.default_route;
                if claims.agents.is_empty() || proven.owns(host) { None } else { claims.pick(usable) }
            }),
            (Strategy::DestHost, host) => match proven.by_host.get(host) {
                Some(group) => group.pick(usable),
                None => claimed.by_host.get(host)?.pick(usable),
            },
            (Strategy::DestCidr, Host::Name(_)) => None,
            (Strategy::DestCidr, Host::Ip(ip)) => proven.longest(*ip, &usable).or_else(|| {
                // A claimed network may contain targets that others prove.
                if claimed.by_network.is_empty() || proven.owns(host) {
                    None
                } else {
                    claimed.longest(*ip, usable)
                }
            }),
        }
    }
}

fn in_use<'a>(groups: impl Iterator<Item = &'a Group>) -> usize {
    groups.filter(|group| !group.agents.is_empty()).count()
}

impl Table {
    /// Adds an agent under the identifiers that `host` and `network` take.
    fn add(
        &mut self,
        agent: &Arc<AgentTunnel>,
        identifiers: &Identifiers,
        takes_host: impl Fn(&Host) -> bool,
        takes_network: impl Fn(&Network) -> bool,
    ) {
        if identifiers.default_route {
            self.default_route.add(agent);
        }
        for host in identifiers.hosts.iter().map(canonical_host).filter(|host| takes_host(host)) {
            self.by_host.entry(host.into_owned()).or_default().add(agent);
        }
        for network in
            identifiers.cidrs.iter().map(|network| canonical_network(*network)).filter(takes_network)
        {
            self.by_network.entry(network).or_default().add(agent);
        }
    }

    /// Keeps identifiers from the claims of others.
    fn own(&mut self, identifiers: &Identifiers) {
        for host in &identifiers.hosts {
            self.by_host.entry(canonical_host(host).into_owned()).or_default();
        }
        for network in &identifiers.cidrs {
            self.by_network.entry(canonical_network(*network)).or_default();
        }
    }

    /// Has to follow the last addition.
    fn finish(&mut self) {
        self.prefixes = self.by_network.keys().map(Network::bits).collect();
        self.prefixes.sort_unstable_by(|a, b| b.cmp(a));
        self.prefixes.dedup();
    }

    /// The groups of the networks that contain an address, longest prefix first.
    fn networks(&self, ip: IpAddr) -> impl Iterator<Item = &Group> {
        self.prefixes.iter().filter_map(move |&bits| self.by_network.get(&Network::of(ip, bits)?))
    }

    fn longest(&self, ip: IpAddr, usable: impl Fn(&Arc<AgentTunnel>) -> bool) -> Option<&Arc<AgentTunnel>> {
        self.networks(ip).find_map(|group| group.pick(&usable))
    }

    fn owns(&self, host: &Host) -> bool {
        self.by_host.contains_key(host) || matches!(host, Host::Ip(ip) if self.networks(*ip).next().is_some())
    }

    /// Whether a network lies in one of the table's, or is one of its hosts.
    fn contains(&self, network: Network) -> bool {
        let (first, bits) = (network.first(), network.bits());
        let wider = self.prefixes.iter().filter(|&&prefix| prefix <= bits);
        let in_network = wider
            .filter_map(|&prefix| Network::of(first, prefix))
            .any(|wider| self.by_network.contains_key(&wider));
        let whole = if first.is_ipv4() { 32 } else { 128 };
        in_network || (bits == whole && self.by_host.contains_key(&Host::Ip(first)))
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
