//! The usable agents, indexed for the strategies.
//!
//! Proven routes and claimed ones have a table each. A target that an identity proves is never
//! found among the claims of others, not even while the identity's own agents are silent: the proven
//! table also has the targets of unusable tunnels, and a look-up among claims asks it first.
//!
//! The registry changes the view by one tunnel at a time, so a change costs as much as the tunnel has
//! identifiers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rand::RngExt as _;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use super::Strategy;
use crate::agents::{AgentTunnel, Routes};
use crate::canonical::{canonical_host, canonical_network};

/// Agents that are equally right for a target. Those that drain are last.
#[derive(Debug, Default)]
struct Group {
    agents: Vec<Arc<AgentTunnel>>,
    /// Number of agents at the front that do not drain.
    ready: usize,
    /// Tunnels that prove the target, usable or not.
    owners: u32,
}

/// Routes of one kind. A group without agents is owned by an identity whose agents are not usable.
#[derive(Debug, Default)]
struct Table {
    default_route: Group,
    by_host: HashMap<Host, Group>,
    by_network: HashMap<Network, Group>,
    /// The lengths of the networks' prefixes, longest first. A look-up takes at most one step
    /// for each.
    prefixes: Vec<Prefix>,
}

/// A length of prefixes, and the number of networks that have it.
#[derive(Debug)]
struct Prefix {
    bits: u8,
    networks: usize,
}

/// The usable agents, one tunnel each but for twins, indexed for the strategies.
#[derive(Debug, Default)]
pub struct View {
    agents: Vec<Arc<AgentTunnel>>,
    /// The agents that [`Strategy::Default`] may choose.
    any: Group,
    proven: Table,
    claimed: Table,
}

impl View {
    /// Keeps identifiers from the claims of others, once for each call.
    pub(crate) fn own(&mut self, identifiers: &Identifiers) {
        self.proven.each(identifiers, |group| group.owners += 1);
    }

    /// Undoes one call of [`View::own`].
    pub(crate) fn disown(&mut self, identifiers: &Identifiers) {
        self.proven.each(identifiers, |group| group.owners = group.owners.saturating_sub(1));
    }

    /// Gives an agent dials for its routes. Its proven ones are owned already.
    pub(crate) fn enter(&mut self, agent: &Arc<AgentTunnel>, routes: &Routes, drains: bool) {
        self.agents.push(Arc::clone(agent));
        self.change(routes, |group| group.add(agent, drains));
    }

    /// Undoes [`View::enter`], with the same routes.
    pub(crate) fn leave(&mut self, agent: &Arc<AgentTunnel>, routes: &Routes) {
        if let Some(at) = self.agents.iter().position(|one| Arc::ptr_eq(one, agent)) {
            self.agents.remove(at);
        }
        self.change(routes, |group| group.remove(agent));
    }

    fn change(&mut self, routes: &Routes, mut change: impl FnMut(&mut Group)) {
        let Routes { proven, claimed, any } = routes;
        if *any {
            change(&mut self.any);
        }
        for (table, identifiers) in [(&mut self.proven, proven), (&mut self.claimed, claimed)] {
            if identifiers.default_route {
                change(&mut table.default_route);
            }
            table.each(identifiers, &mut change);
        }
    }

    /// The usable agents, in the order in which they became so.
    pub(crate) fn agents(&self) -> &[Arc<AgentTunnel>] {
        &self.agents
    }

    /// Whether a strategy has an agent for some target.
    pub(crate) fn has(&self, strategy: Strategy) -> bool {
        let mut tables = [&self.proven, &self.claimed].into_iter();
        let is_used = |group: &Group| !group.agents.is_empty();
        match strategy {
            Strategy::Default => is_used(&self.any),
            Strategy::DefaultRoute => tables.any(|table| is_used(&table.default_route)),
            Strategy::DestCidr => tables.any(|table| table.by_network.values().any(is_used)),
            Strategy::DestHost => tables.any(|table| table.by_host.values().any(is_used)),
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
                // It may lie in a network that others prove.
                None => claimed.by_host.get(host).filter(|_| !proven.surrounds(host))?.pick(usable),
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

impl Table {
    /// Changes the groups of hosts and networks. Those that are empty afterwards are removed.
    fn each(&mut self, identifiers: &Identifiers, mut change: impl FnMut(&mut Group)) {
        for host in identifiers.hosts.iter().map(canonical_host) {
            match self.by_host.get_mut(&*host) {
                Some(group) => {
                    change(group);
                    if group.is_empty() {
                        self.by_host.remove(&*host);
                    }
                }
                None => {
                    let mut group = Group::default();
                    change(&mut group);
                    if !group.is_empty() {
                        self.by_host.insert(host.into_owned(), group);
                    }
                }
            }
        }
        for network in identifiers.cidrs.iter().map(|network| canonical_network(*network)) {
            let known = self.by_network.contains_key(&network);
            let group = self.by_network.entry(network).or_default();
            change(group);
            let is_empty = group.is_empty();
            if is_empty {
                self.by_network.remove(&network);
            }
            if known == is_empty {
                self.count_prefix(network.bits(), !known);
            }
        }
    }

    fn count_prefix(&mut self, bits: u8, added: bool) {
        match (self.prefixes.binary_search_by(|prefix| bits.cmp(&prefix.bits)), added) {
            (Ok(at), true) => self.prefixes[at].networks += 1,
            (Ok(at), false) if self.prefixes[at].networks > 1 => self.prefixes[at].networks -= 1,
            (Ok(at), false) => drop(self.prefixes.remove(at)),
            (Err(at), true) => self.prefixes.insert(at, Prefix { bits, networks: 1 }),
            (Err(_), false) => {}
        }
    }

    /// The groups of the networks that contain an address, longest prefix first.
    fn networks(&self, ip: IpAddr) -> impl Iterator<Item = &Group> {
        self.prefixes.iter().filter_map(move |prefix| self.by_network.get(&Network::of(ip, prefix.bits)?))
    }

    fn longest(&self, ip: IpAddr, usable: impl Fn(&Arc<AgentTunnel>) -> bool) -> Option<&Arc<AgentTunnel>> {
        self.networks(ip).find_map(|group| group.pick(&usable))
    }

    fn owns(&self, host: &Host) -> bool {
        self.by_host.contains_key(host) || self.surrounds(host)
    }

    /// Whether one of the networks contains a host.
    fn surrounds(&self, host: &Host) -> bool {
        matches!(host, Host::Ip(ip) if self.networks(*ip).next().is_some())
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.owners == 0
    }

    fn add(&mut self, agent: &Arc<AgentTunnel>, drains: bool) {
        // An agent that names a host twice is added once. The agent that was added last is the
        // last of all or the last that does not drain.
        let last = [self.agents.len().checked_sub(1), self.ready.checked_sub(1)];
        if last.into_iter().flatten().any(|at| Arc::ptr_eq(&self.agents[at], agent)) {
            return;
        }
        self.agents.push(Arc::clone(agent));
        if !drains {
            let last = self.agents.len() - 1;
            self.agents.swap(self.ready, last);
            self.ready += 1;
        }
    }

    fn remove(&mut self, agent: &Arc<AgentTunnel>) {
        let Some(mut at) = self.agents.iter().position(|one| Arc::ptr_eq(one, agent)) else { return };
        if at < self.ready {
            self.ready -= 1;
            self.agents.swap(at, self.ready);
            at = self.ready;
        }
        self.agents.swap_remove(at);
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

#[cfg(test)]
impl View {
    /// All entries, in an order that does not depend on hashing.
    pub(super) fn contents(&self) -> Vec<String> {
        let ids = |agents: &[Arc<AgentTunnel>]| {
            let mut ids: Vec<_> = agents.iter().map(|agent| agent.id.clone()).collect();
            ids.sort();
            ids
        };
        let shown = |key: String, group: &Group| {
            let (ready, draining) = group.agents.split_at(group.ready);
            format!("{key}: {:?} {:?} of {}", ids(ready), ids(draining), group.owners)
        };
        let mut all = vec![shown("any".to_owned(), &self.any), format!("{:?}", ids(&self.agents))];
        for (kind, table) in [("proven", &self.proven), ("claimed", &self.claimed)] {
            all.push(shown(format!("{kind} default route"), &table.default_route));
            all.extend(table.by_host.iter().map(|(host, group)| shown(format!("{kind} {host}"), group)));
            all.extend(table.by_network.iter().map(|(net, group)| shown(format!("{kind} {net}"), group)));
            all.push(format!("{kind} {:?}", table.prefixes));
        }
        all.sort();
        all
    }
}
