//! Tunnels of one agent id: successors of each other, or agents of two hosts that share an id by mistake.
//!
//! An agent that replaces its tunnel names the same targets again and ends the older one. Two hosts with
//! one id, as copies of a virtual machine have it, name different ones and both live on. There the older
//! tunnel keeps the targets that the newer does not serve, and a warning and a metric tell of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tracing::field::display;
use tunnel_program::warn_seldom;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Host;

use super::{AgentTunnel, Identity, Registry, Routes, key};
use crate::canonical::{canonical_host, canonical_network};
use crate::route::Strategy;

/// Most older tunnels of one agent id that keep targets. With fewer, hosts that share an id are not
/// reached; more lets one identity make every view expensive.
const MOST: usize = 8;

/// The tunnels that may get dials.
#[derive(Debug, Default)]
pub(crate) struct Usable {
    /// Each with the routes for which it gets them. The newest of each agent, and then twins.
    pub(crate) agents: Vec<(Arc<AgentTunnel>, Arc<Routes>)>,
    /// Older tunnels of agents whose newest one is of another host.
    pub(crate) twins: usize,
}

/// The newest usable tunnel of each agent: the last registered that does not drain, or else the last
/// registered; and older ones with targets of their own.
pub(super) fn usable(tunnels: &[(u64, Arc<AgentTunnel>)]) -> Usable {
    let mut best = HashMap::<(&str, &Identity), &Arc<AgentTunnel>>::new();
    let usable = || tunnels.iter().map(|(_, agent)| agent).filter(|agent| agent.is_usable());
    for agent in usable() {
        let slot = best.entry(key(agent)).or_insert(agent);
        if !agent.is_draining() || slot.is_draining() {
            *slot = agent;
        }
    }
    let is_best = |agent: &Arc<AgentTunnel>| best.get(&key(agent)).is_some_and(|one| Arc::ptr_eq(one, agent));
    // In the order of registration, so that a view does not depend on hashing.
    let newest = usable().filter(|agent| is_best(agent));
    let mut found =
        Usable { agents: newest.map(|agent| (Arc::clone(agent), agent.routes())).collect(), twins: 0 };
    if found.agents.len() < usable().count() {
        let older = usable().rev().filter(|agent| !agent.is_draining() && !is_best(agent));
        add_twins(&mut found, older, |agent| best.get(&key(agent)).copied());
    }
    found
}

fn add_twins<'a>(
    found: &mut Usable,
    older: impl Iterator<Item = &'a Arc<AgentTunnel>>,
    newest: impl Fn(&AgentTunnel) -> Option<&'a Arc<AgentTunnel>>,
) {
    // The routes that newer tunnels of each agent have.
    let mut taken = HashMap::<(&str, &Identity), Vec<Arc<Routes>>>::new();
    for agent in older {
        let Some(newest) = newest(agent).filter(|newest| is_elsewhere(newest, agent)) else { continue };
        found.twins += 1;
        let taken = taken.entry(key(agent)).or_insert_with(|| vec![newest.routes()]);
        if taken.len() > MOST {
            continue;
        }
        let own = agent.routes().without(taken);
        if !(own.proven.is_empty() && own.claimed.is_empty()) {
            taken.push(agent.routes());
            found.agents.push((Arc::clone(agent), Arc::new(own)));
        }
    }
}

/// Whether two tunnels of one agent id are of different hosts, as far as a server can tell.
fn is_elsewhere(one: &AgentTunnel, other: &AgentTunnel) -> bool {
    let ip = |agent: &AgentTunnel| agent.remote().map(|remote| remote.ip());
    one.claims != other.claims || ip(one) != ip(other)
}

impl Routes {
    /// The targets that none of `others` has.
    fn without(&self, others: &[Arc<Self>]) -> Self {
        let kinds = || others.iter().flat_map(|routes| [&routes.proven, &routes.claimed]);
        let hosts: HashSet<_> = kinds().flat_map(|kind| &kind.hosts).map(canonical_host).collect();
        let networks: HashSet<_> =
            kinds().flat_map(|kind| &kind.cidrs).map(|network| canonical_network(*network)).collect();
        let default_route = kinds().any(|kind| kind.default_route);
        let rest = |kind: &Identifiers| Identifiers {
            hosts: kind.hosts.iter().filter(|host| !hosts.contains(&canonical_host(host))).cloned().collect(),
            cidrs: kind
                .cidrs
                .iter()
                .copied()
                .filter(|network| !networks.contains(&canonical_network(*network)))
                .collect(),
            default_route: kind.default_route && !default_route,
            unusable: Vec::new(),
        };
        Self { proven: Arc::new(rest(&self.proven)), claimed: Arc::new(rest(&self.claimed)), any: false }
    }
}

/// A tunnel that another agent's name or target collides with.
#[derive(Debug)]
pub(super) struct Rival {
    pub(super) tunnel: Arc<AgentTunnel>,
    /// The host that both serve; `None` if they have one id.
    pub(super) host: Option<Host>,
}

impl Rival {
    /// Warns of an agent that is about to be registered.
    pub(super) fn warn_of(&self, agent: &AgentTunnel) {
        let Self { tunnel: other, host } = self;
        let (from, other_from) = (agent.remote().map(display), other.remote().map(display));
        let (other_id, other_identity) = (&other.id, &other.identity);
        match host {
            None => warn_seldom!(
                ("agent", "same_id"),
                agent = agent.id,
                identity = %agent.identity,
                from,
                %other_identity,
                other_from,
                "two hosts use one agent id: give each its own; the newer one gets the dials of targets that \
                 both serve"
            ),
            Some(host) => warn_seldom!(
                ("agent", "same_address"),
                agent = agent.id,
                from,
                address = %host,
                other = other_id,
                other_from,
                "an agent serves an address that an agent of another host serves: both get dials for it"
            ),
        }
    }
}

impl Registry {
    /// A standing tunnel of another host that has the id of `agent`, or else one of its names and
    /// addresses. Names and addresses are compared as of the last dial.
    pub(super) fn rival(&self, agent: &AgentTunnel) -> Option<Rival> {
        let stands = |other: &AgentTunnel| !other.is_leaving();
        let ip = |agent: &AgentTunnel| agent.remote().map(|remote| remote.ip());
        let of_id = |other: &&Arc<AgentTunnel>| {
            let is_other = other.identity != agent.identity || is_elsewhere(other, agent);
            other.id == agent.id && is_other && stands(other)
        };
        if let Some(tunnel) = self.lock().tunnels.iter().rev().map(|(_, other)| other).find(of_id) {
            return Some(Rival { tunnel: Arc::clone(tunnel), host: None });
        }
        // Not made anew, which a storm of agents would do a thousand times.
        let view = self.inner.view.load();
        let other_than =
            |other: &Arc<AgentTunnel>| other.id != agent.id && ip(other) != ip(agent) && stands(other);
        agent.routes().hosts().find_map(|host| {
            let tunnel = view.pick(Strategy::DestHost, &canonical_host(host), other_than)?;
            Some(Rival { tunnel: Arc::clone(tunnel), host: Some(host.clone()) })
        })
    }
}

#[cfg(test)]
mod tests {
    use tunnel_proto::ident::UnknownKeys;

    use super::*;
    use crate::route::Router;

    fn agent(id: &str, claims: &str) -> Arc<AgentTunnel> {
        Arc::new(AgentTunnel::detached(id, Identifiers::parse(claims, UnknownKeys::Refuse).unwrap()))
    }

    /// The agent that gets the dials of a target.
    fn serves(registry: &Registry, target: &str) -> Option<Arc<AgentTunnel>> {
        let router = Router::new(vec![Strategy::DestHost, Strategy::DestCidr, Strategy::Default]);
        router.pick(&registry.view(), &target.parse().unwrap(), None)
    }

    #[track_caller]
    fn assert_serves(registry: &Registry, target: &str, agent: &Arc<AgentTunnel>) {
        // Choices are random.
        for _ in 0..32 {
            assert!(serves(registry, target).is_some_and(|served| Arc::ptr_eq(&served, agent)), "{target}");
        }
    }

    #[tokio::test]
    async fn of_two_hosts_with_one_id_each_serves_its_own_addresses_and_the_newer_the_others() {
        let registry = Registry::default();
        let older = agent("clone", "ipv4=10.0.0.1&cidr=10.1.0.0/24&host=clone");
        let newer = agent("clone", "ipv4=10.0.0.2&cidr=10.2.0.0/24&host=Clone");
        let _older = registry.register(Arc::clone(&older));
        let newest = registry.register(Arc::clone(&newer));
        for (target, agent) in [
            ("10.0.0.1:1", &older),
            ("10.1.0.9:1", &older),
            ("10.0.0.2:1", &newer),
            ("10.2.0.9:1", &newer),
            ("clone:1", &newer),
            ("8.8.8.8:1", &newer),
        ] {
            assert_serves(&registry, target, agent);
        }
        assert_eq!(registry.view().twins(), 1);
        drop(newest);
        assert_serves(&registry, "clone:1", &older);
        assert_eq!(registry.view().twins(), 0);
    }

    #[tokio::test]
    async fn the_successor_of_a_tunnel_is_no_twin_and_neither_is_one_after_a_drain() {
        let registry = Registry::default();
        let (older, newer) = (agent("a", "ipv4=10.0.0.1"), agent("a", "ipv4=10.0.0.1"));
        let _older = registry.register(Arc::clone(&older));
        let _newer = registry.register(Arc::clone(&newer));
        assert_serves(&registry, "10.0.0.1:1", &newer);
        assert_eq!((registry.view().agents().len(), registry.view().twins()), (1, 0));
        // The agent was started anew with another address.
        let moved = agent("a", "ipv4=10.0.0.9");
        newer.set_draining();
        older.set_draining();
        let _moved = registry.register(Arc::clone(&moved));
        assert_eq!((registry.view().agents().len(), registry.view().twins()), (1, 0));
        assert!(registry.rival(&moved).is_none());
    }

    #[tokio::test]
    async fn an_identity_with_many_tunnels_does_not_make_views_expensive() {
        let registry = Registry::default();
        let register = |n| registry.register(agent("a", &format!("ipv4=10.0.0.{n}")));
        let _tunnels: Vec<_> = (0..100).map(register).collect();
        assert_eq!((registry.view().agents().len(), registry.view().twins()), (1 + MOST, 99));
    }

    #[tokio::test]
    async fn whoever_has_the_id_or_an_address_already_is_named() {
        let registry = Registry::default();
        let _older = registry.register(agent("a", "ipv4=10.0.0.1"));
        let rival = registry.rival(&agent("a", "ipv4=10.0.0.2")).unwrap();
        assert_eq!((rival.tunnel.id.as_str(), rival.host), ("a", None));
        assert!(registry.rival(&agent("a", "ipv4=10.0.0.1")).is_none(), "a successor");
        assert!(registry.rival(&agent("b", "ipv4=10.0.0.2")).is_none(), "a stranger to both");
    }
}
