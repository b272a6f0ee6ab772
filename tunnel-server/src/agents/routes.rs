//! The targets of one tunnel: proven ones, and those that are only claimed.

use std::sync::Arc;

use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use crate::canonical::{canonical_host, canonical_network};

/// The targets for which a tunnel gets dials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routes {
    /// Proven by the identity, or allowed by the operator.
    pub(crate) proven: Arc<Identifiers>,
    /// Claimed by the agent without proof; empty where proof is needed.
    pub(crate) claimed: Arc<Identifiers>,
    /// Whether the tunnel may get dials for targets that nobody names.
    pub(crate) any: bool,
}

impl Routes {
    /// As the agent claims.
    pub(crate) fn as_claimed(claims: Arc<Identifiers>) -> Self {
        Self { proven: Arc::default(), claimed: claims, any: true }
    }

    /// Whether a host, which is in canonical form, is among the proven targets.
    pub(crate) fn prove(&self, host: &Host) -> bool {
        let Identifiers { hosts, cidrs, .. } = &*self.proven;
        let is_host = |one: &Host| *canonical_host(one) == *host;
        let contains =
            |network: &Network| matches!(host, Host::Ip(ip) if canonical_network(*network).contains(*ip));
        hosts.iter().any(is_host) || cidrs.iter().any(contains)
    }

    /// At most `most` hosts and networks of each kind, for those who remember what is gone.
    pub(super) fn some(self: &Arc<Self>, most: usize) -> Arc<Self> {
        let is_small = |kind: &Identifiers| {
            kind.hosts.len() <= most && kind.cidrs.len() <= most && kind.unusable.is_empty()
        };
        let some = |kind: &Arc<Identifiers>| {
            if is_small(kind) {
                return Arc::clone(kind);
            }
            let (hosts, cidrs) =
                (kind.hosts.iter().take(most).cloned(), kind.cidrs.iter().take(most).copied());
            Arc::new(Identifiers {
                hosts: hosts.collect(),
                cidrs: cidrs.collect(),
                default_route: kind.default_route,
                unusable: Vec::new(),
            })
        };
        if is_small(&self.proven) && is_small(&self.claimed) {
            return Arc::clone(self);
        }
        Arc::new(Self { proven: some(&self.proven), claimed: some(&self.claimed), any: self.any })
    }

    /// A copy that shares no memory.
    pub(super) fn copied(&self) -> Self {
        let copied = |kind: &Arc<Identifiers>| Arc::new(Identifiers::clone(kind));
        Self { proven: copied(&self.proven), claimed: copied(&self.claimed), any: self.any }
    }

    /// Networks in canonical form, proven ones first.
    pub(super) fn networks(&self) -> impl Iterator<Item = Network> {
        self.proven.cidrs.iter().chain(&self.claimed.cidrs).map(|network| canonical_network(*network))
    }

    /// Whether a kind of them has the default route.
    pub(super) fn has_default_route(&self) -> bool {
        self.proven.default_route || self.claimed.default_route
    }

    /// Names and addresses, proven ones first.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.proven.hosts.iter().chain(&self.claimed.hosts)
    }
}

/// The parts of `claims` that `proof` covers, and the others.
pub(super) fn split(claims: &Arc<Identifiers>, proof: &Identifiers) -> (Arc<Identifiers>, Arc<Identifiers>) {
    let proves = |host: &Host| {
        let host = canonical_host(host);
        proof.hosts.contains(&host)
            || matches!(*host, Host::Ip(ip) if proof.cidrs.iter().any(|network| network.contains(ip)))
    };
    let proves_network = |network: &Network| {
        let network = canonical_network(*network);
        let (first, bits) = (network.first(), network.bits());
        let whole = if first.is_ipv4() { 32 } else { 128 };
        proof.cidrs.iter().any(|wider| wider.bits() <= bits && wider.contains(first))
            || (bits == whole && proof.hosts.contains(&Host::Ip(first)))
    };
    let (hosts, other_hosts): (Vec<_>, Vec<_>) = claims.hosts.iter().cloned().partition(proves);
    let (cidrs, other_cidrs): (Vec<_>, Vec<_>) =
        claims.cidrs.iter().partition(|network| proves_network(network));
    let default_route = claims.default_route && proof.default_route;
    let unproven = Identifiers {
        hosts: other_hosts,
        cidrs: other_cidrs,
        default_route: claims.default_route && !proof.default_route,
        unusable: Vec::new(),
    };
    if unproven.is_empty() {
        // Most agents claim the truth; then nothing is kept twice.
        return (Arc::clone(claims), Arc::default());
    }
    (Arc::new(Identifiers { hosts, cidrs, default_route, unusable: Vec::new() }), Arc::new(unproven))
}

/// Unproven claims by kind: names, addresses, networks, default routes.
pub(super) fn counted(unproven: &Identifiers) -> [(&'static str, usize); 4] {
    let addresses = unproven.hosts.iter().filter(|host| matches!(host, Host::Ip(_))).count();
    [
        ("host", unproven.hosts.len() - addresses),
        ("address", addresses),
        ("cidr", unproven.cidrs.len()),
        ("default_route", unproven.default_route.into()),
    ]
}

/// Claims for people, at most `most`.
pub(crate) fn shown(claims: &Identifiers, most: usize) -> Vec<String> {
    let hosts = claims.hosts.iter().map(ToString::to_string);
    let cidrs = claims.cidrs.iter().map(ToString::to_string);
    let route = claims.default_route.then(|| "default-route".to_owned());
    hosts.chain(cidrs).chain(route).take(most).collect()
}

#[cfg(test)]
mod tests {
    use tunnel_proto::ident::UnknownKeys;

    use super::*;

    fn parse(text: &str) -> Arc<Identifiers> {
        Arc::new(Identifiers::parse(text, UnknownKeys::Refuse).unwrap())
    }

    #[test]
    fn a_claim_is_proven_by_its_own_host_or_a_network_around_it() {
        let proof = parse("host=n1&ipv4=10.0.0.1&cidr=10.244.1.0/24&cidr=fd00::/64");
        for (claim, proven) in [
            ("host=N1", true),
            ("host=n1.", true),
            ("host=n2", false),
            ("ipv4=10.0.0.1", true),
            ("ipv6=::ffff:10.0.0.1", true),
            ("ipv4=10.0.0.2", false),
            ("ipv6=::ffff:10.0.0.2", false),
            ("ipv4=10.244.1.9", true),
            ("ipv4=10.244.2.9", false),
            ("cidr=10.244.1.0/24", true),
            ("cidr=10.244.1.128/25", true),
            ("cidr=::ffff:10.244.1.0/120", true),
            ("cidr=10.244.0.0/16", false),
            ("cidr=0.0.0.0/0", false),
            ("cidr=::/0", false),
            ("cidr=10.0.0.1/32", true),
            ("cidr=10.0.0.0/31", false),
            ("cidr=fd00::7/128", true),
            ("default-route=true", false),
        ] {
            let (kept, lost) = split(&parse(claim), &proof);
            assert_eq!((kept.is_empty(), lost.is_empty()), (!proven, proven), "{claim}");
        }
    }

    #[test]
    fn claims_are_divided_and_counted() {
        let claims = parse("host=n1&host=n2&ipv4=10.0.0.1&ipv4=10.0.0.2&cidr=10.0.0.0/8&default-route=true");
        let (kept, lost) = split(&claims, &parse("host=n1&ipv4=10.0.0.1"));
        assert_eq!(shown(&kept, 9), ["n1", "10.0.0.1"]);
        assert_eq!(shown(&lost, 9), ["n2", "10.0.0.2", "10.0.0.0/8", "default-route"]);
        assert_eq!(counted(&lost), [("host", 1), ("address", 1), ("cidr", 1), ("default_route", 1)]);
        assert!(Arc::ptr_eq(&split(&claims, &claims).0, &claims));
    }
}
