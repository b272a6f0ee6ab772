//! Why an agent was chosen, for people.

use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::{Host, Target};

use super::{Router, Strategy};
use crate::agents::{AgentTunnel, Routes};
use crate::canonical::{canonical_host, canonical_network};

impl Router {
    /// The first strategy by which `agent` serves `target`, and the identifier that matched.
    pub fn why(&self, agent: &AgentTunnel, target: &Target) -> String {
        let (routes, host) = (agent.routes(), canonical_host(target.host()));
        let found = self.strategies.iter().find_map(|&strategy| {
            let matched = serves(strategy, &routes, &host)?;
            Some(if matched.is_empty() {
                strategy.label().to_owned()
            } else {
                format!("{}: {matched}", strategy.label())
            })
        });
        found.unwrap_or_else(|| "no strategy".to_owned())
    }

    /// Whether an agent with these routes serves `target`, if no other agent has a better right to it.
    pub(crate) fn serves(&self, routes: &Routes, target: &Target) -> bool {
        let host = canonical_host(target.host());
        self.strategies.iter().any(|&strategy| serves(strategy, routes, &host).is_some())
    }
}

fn serves(strategy: Strategy, routes: &Routes, host: &Host) -> Option<String> {
    if strategy == Strategy::Default && !routes.any {
        return None;
    }
    [&routes.proven, &routes.claimed].into_iter().find_map(|kind| matched(strategy, kind, host))
}

fn matched(strategy: Strategy, identifiers: &Identifiers, host: &Host) -> Option<String> {
    match (strategy, host) {
        (Strategy::Default, _) => Some("any agent".to_owned()),
        (Strategy::DefaultRoute, _) => identifiers.default_route.then(String::new),
        (Strategy::DestHost, host) => {
            identifiers.hosts.iter().any(|one| *canonical_host(one) == *host).then(|| host.to_string())
        }
        (Strategy::DestCidr, Host::Name(_)) => None,
        (Strategy::DestCidr, Host::Ip(ip)) => {
            let networks = identifiers.cidrs.iter().map(|network| canonical_network(*network));
            let of = networks.filter(|network| network.contains(*ip));
            of.max_by_key(Network::bits).map(|network| network.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use tunnel_proto::ident::UnknownKeys;

    use super::*;

    #[test]
    fn the_first_strategy_that_fits_is_the_reason() {
        let of = "ipv4=10.0.3.7&cidr=10.0.0.0/8&cidr=10.96.0.0/12&default-route=true";
        let agent = AgentTunnel::detached("a", Identifiers::parse(of, UnknownKeys::Refuse).unwrap());
        let order =
            [Strategy::DestHost, Strategy::DestCidr, Strategy::DefaultRoute, Strategy::Default].to_vec();
        for (strategies, target, why) in [
            (order.clone(), "10.0.3.7:10250", "destHost: 10.0.3.7"),
            (order.clone(), "10.96.0.1:443", "destCIDR: 10.96.0.0/12"),
            (order.clone(), "name:443", "defaultRoute"),
            (vec![Strategy::Default], "10.0.3.7:10250", "default: any agent"),
            (vec![Strategy::DestHost], "10.0.3.8:10250", "no strategy"),
        ] {
            assert_eq!(Router::new(strategies).why(&agent, &target.parse().unwrap()), why);
        }
    }
}
