//! Tunnels of one agent id: successors of each other, or agents of two hosts that share an id by mistake.
//!
//! An agent that replaces its tunnel names the same targets again and ends the older one. Two hosts with
//! one id, as copies of a virtual machine have it, name different ones and both live on. There the older
//! tunnel keeps the targets that the newer does not serve, and a warning and a metric tell of it.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::field::display;
use tunnel_program::warn_seldom;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use super::{AgentTunnel, Registry, Routes};
use crate::canonical::{canonical_host, canonical_network};
use crate::route::Strategy;

/// Most older tunnels of one agent id that keep targets. With fewer, hosts that share an id are not
/// reached; more lets one agent make its changes expensive.
const MOST: usize = 8;

/// An entry of the view.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The targets for which the tunnel gets dials.
    pub(super) routes: Arc<Routes>,
    /// Whether it gets them after those that do not drain.
    pub(super) drains: bool,
}

/// The part of an agent's dials that one of its tunnels gets.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) entry: Option<Entry>,
    /// Whether the agent's newest tunnel is of another host.
    pub(super) is_twin: bool,
}

/// The shares of the tunnels of one agent, which are in the order of registration. The newest usable one
/// gets all: the last that neither drains nor is on trial, or else one on trial, or else one that drains.
/// Others get what is theirs alone.
pub(super) fn shares(tunnels: &[&Arc<AgentTunnel>]) -> Vec<Share> {
    let mut shares: Vec<_> = tunnels.iter().map(|_| Share::default()).collect();
    let usable = || tunnels.iter().enumerate().filter(|(_, agent)| agent.is_usable());
    let Some((first, newest)) =
        usable().max_by_key(|(at, agent)| (!agent.is_draining(), !agent.on_trial, *at))
    else {
        return shares;
    };
    let routes = newest.routes();
    let older = |(at, agent): &(usize, &&Arc<AgentTunnel>)| {
        *at != first && !agent.is_draining() && is_elsewhere(newest, agent)
    };
    let mut taken = Taken::default();
    for (at, agent) in usable().rev().filter(older) {
        shares[at].is_twin = true;
        if taken.tunnels == 0 {
            taken.add(&routes);
        }
        let own = agent.routes();
        if taken.tunnels <= MOST
            && let Some(rest) = taken.rest(&own)
        {
            taken.add(&own);
            shares[at].entry = Some(Entry { routes: Arc::new(rest), drains: false });
        }
    }
    shares[first].entry = Some(Entry { routes, drains: newest.is_draining() });
    shares
}

/// Whether two tunnels of one agent id are of different hosts, as far as a server can tell.
fn is_elsewhere(one: &AgentTunnel, other: &AgentTunnel) -> bool {
    let ip = |agent: &AgentTunnel| agent.remote().map(|remote| remote.ip());
    one.claims != other.claims || ip(one) != ip(other)
}

/// The targets of tunnels.
#[derive(Default)]
struct Taken {
    tunnels: usize,
    hosts: HashSet<Host>,
    networks: HashSet<Network>,
    default_route: bool,
}

impl Taken {
    fn add(&mut self, routes: &Routes) {
        self.tunnels += 1;
        for kind in [&routes.proven, &routes.claimed] {
            self.hosts.extend(kind.hosts.iter().map(|host| canonical_host(host).into_owned()));
            self.networks.extend(kind.cidrs.iter().map(|network| canonical_network(*network)));
            self.default_route |= kind.default_route;
        }
    }

    /// The targets that are not among these, if there are some.
    fn rest(&self, routes: &Routes) -> Option<Routes> {
        let is_free = |host: &Host| !self.hosts.contains(&*canonical_host(host));
        let is_free_network = |network: &Network| !self.networks.contains(&canonical_network(*network));
        let rest = |kind: &Identifiers| Identifiers {
            hosts: kind.hosts.iter().filter(|host| is_free(host)).cloned().collect(),
            cidrs: kind.cidrs.iter().copied().filter(is_free_network).collect(),
            default_route: kind.default_route && !self.default_route,
            unusable: Vec::new(),
        };
        let (proven, claimed) = (rest(&routes.proven), rest(&routes.claimed));
        let is_empty = proven.is_empty() && claimed.is_empty();
        (!is_empty).then(|| Routes { proven: Arc::new(proven), claimed: Arc::new(claimed), any: false })
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
    /// addresses.
    pub(super) fn rival(&self, agent: &AgentTunnel) -> Option<Rival> {
        let stands = |other: &AgentTunnel| !other.is_leaving();
        let ip = |agent: &AgentTunnel| agent.remote().map(|remote| remote.ip());
        let is_other = |other: &AgentTunnel| {
            (other.identity != agent.identity || is_elsewhere(other, agent)) && stands(other)
        };
        if let Some(tunnel) = self.of_id(&agent.id, is_other) {
            return Some(Rival { tunnel, host: None });
        }
        let other_than =
            |other: &Arc<AgentTunnel>| other.id != agent.id && ip(other) != ip(agent) && stands(other);
        let (routes, view) = (agent.routes(), self.view());
        routes.hosts().find_map(|host| {
            let tunnel = view.pick(Strategy::DestHost, &canonical_host(host), other_than)?;
            Some(Rival { tunnel: Arc::clone(tunnel), host: Some(host.clone()) })
        })
    }
}

#[cfg(test)]
mod tests {
    use tunnel_proto::ident::UnknownKeys;

    use super::*;
    use crate::agents::Identity;
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
        assert_eq!(registry.twins(), 1);
        drop(newest);
        assert_serves(&registry, "clone:1", &older);
        assert_eq!(registry.twins(), 0);
    }

    #[tokio::test]
    async fn the_successor_of_a_tunnel_is_no_twin_and_neither_is_one_after_a_drain() {
        let registry = Registry::default();
        let (older, newer) = (agent("a", "ipv4=10.0.0.1"), agent("a", "ipv4=10.0.0.1"));
        let _older = registry.register(Arc::clone(&older));
        let _newer = registry.register(Arc::clone(&newer));
        assert_serves(&registry, "10.0.0.1:1", &newer);
        assert_eq!((registry.view().agents().len(), registry.twins()), (1, 0));
        // The agent was started anew with another address.
        let moved = agent("a", "ipv4=10.0.0.9");
        newer.set_draining();
        older.set_draining();
        let _moved = registry.register(Arc::clone(&moved));
        assert_eq!((registry.view().agents().len(), registry.twins()), (1, 0));
        assert!(registry.rival(&moved).is_none());
    }

    #[tokio::test]
    async fn a_tunnel_on_trial_gets_dials_once_the_agent_has_no_other() {
        let registry = Registry::default();
        let on_trial =
            || Arc::new(AgentTunnel { on_trial: true, ..AgentTunnel::detached("a", Identifiers::default()) });
        let (spare, quic) = (agent("a", ""), on_trial());
        let _spare = registry.register(Arc::clone(&spare));
        let tried = registry.register(Arc::clone(&quic));
        assert_serves(&registry, "10.0.0.1:1", &spare);
        spare.set_draining();
        registry.changed(&spare);
        assert_serves(&registry, "10.0.0.1:1", &quic);
        quic.set_draining();
        registry.changed(&quic);
        assert_serves(&registry, "10.0.0.1:1", &spare);
        drop(tried);
        assert_eq!((registry.view().agents().len(), registry.twins()), (1, 0));
    }

    #[tokio::test]
    async fn an_identity_with_many_tunnels_does_not_make_views_expensive() {
        let registry = Registry::default();
        let register = |n| registry.register(agent("a", &format!("ipv4=10.0.0.{n}")));
        let _tunnels: Vec<_> = (0..100).map(register).collect();
        assert_eq!((registry.view().agents().len(), registry.twins()), (1 + MOST, 99));
    }

    #[tokio::test]
    async fn whoever_has_the_id_or_an_address_already_is_named() {
        let registry = Registry::default();
        let _older = registry.register(agent("a", "ipv4=10.0.0.1"));
        let rival = registry.rival(&agent("a", "ipv4=10.0.0.2")).unwrap();
        assert_eq!((rival.tunnel.id.as_str(), rival.host), ("a", None));
        assert!(registry.rival(&agent("a", "ipv4=10.0.0.1")).is_none(), "a successor");
        let _other = registry.register(agent("b", "ipv4=10.0.0.2"));
        let rogue = AgentTunnel {
            identity: Identity::Node("n".into()),
            ..AgentTunnel::detached("a", Identifiers::default())
        };
        assert_eq!(registry.rival(&rogue).unwrap().tunnel.id, "a", "another identity");
        assert!(registry.rival(&agent("c", "ipv4=10.0.0.3")).is_none(), "a stranger to both");
    }
}
