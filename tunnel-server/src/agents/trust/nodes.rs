//! The targets of each node, by its object.
//!
//! A kubelet may write its own node's addresses, so an address is no proof while several nodes
//! list it: it stays with the node that had it before, and routes to none if they came together.
//! A node's name is its own, and its pod networks are stronger than others' addresses, because
//! the control plane assigns them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tunnel_kube::nodes::Node;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use crate::canonical::{canonical_host, canonical_network};

/// Most conflicts that are kept. More nodes than that with one address are a broken cluster.
const MOST_CONTESTS: usize = 100;

/// Most nodes of one conflict that are named.
const MOST_NAMED: usize = 8;

/// The targets of each node at one moment.
#[derive(Debug, Default)]
pub(crate) struct NodeRoutes {
    by_node: HashMap<String, Arc<Identifiers>>,
    /// The targets of all nodes, contested ones included.
    targets: HashSet<Target>,
    /// The lengths of the prefixes of the networks among them.
    prefixes: BTreeSet<u8>,
    contests: Vec<Contest>,
    listed: bool,
}

/// A target that several nodes list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contest {
    /// The name, address or network.
    pub(super) target: String,
    /// Some of the nodes, in the order of names.
    pub(super) nodes: Vec<String>,
    /// The node that serves it, if one does.
    pub(super) kept_by: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Target {
    Host(Host),
    Network(Network),
}

impl NodeRoutes {
    /// The targets of a node.
    pub(super) fn of(&self, node: &str) -> Option<Arc<Identifiers>> {
        self.by_node.get(node).map(Arc::clone)
    }

    /// Whether a node lists a host, which is in canonical form, or has it in its pod networks.
    pub(super) fn list(&self, host: &Host) -> bool {
        let in_network = |ip: &IpAddr| {
            let mut networks = self.prefixes.iter().filter_map(|&bits| Network::of(*ip, bits));
            networks.any(|network| self.targets.contains(&Target::Network(network)))
        };
        self.targets.contains(&Target::Host(host.clone())) || matches!(host, Host::Ip(ip) if in_network(ip))
    }

    pub(super) fn count(&self) -> usize {
        self.by_node.len()
    }

    pub(super) const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The conflicts, at most [`MOST_CONTESTS`].
    pub(super) fn contests(&self) -> &[Contest] {
        &self.contests
    }

    /// Those of the nodes at a later moment.
    pub(super) fn next<'a>(&self, nodes: impl Iterator<Item = &'a Node>, is_listed: bool) -> Self {
        let listed: Vec<_> = nodes.map(Listed::of).collect();
        let owners = self.owners(&listed);
        let targets: HashSet<_> = listed.iter().flat_map(|node| node.targets.iter().cloned()).collect();
        let prefixes = Networks::of(&listed).prefixes;
        let contests = owners.contests;
        let mut next = Self { targets, prefixes, contests, listed: is_listed, by_node: HashMap::new() };
        for node in &listed {
            let gets = |target: &Target| !owners.lost.contains(&(target, node.name));
            let (mut hosts, mut cidrs) = (Vec::new(), Vec::new());
            for target in node.targets.iter().filter(|target| gets(target)) {
                match target {
                    Target::Host(host) => hosts.push(host.clone()),
                    Target::Network(network) => cidrs.push(*network),
                }
            }
            let routes = Identifiers { hosts, cidrs, ..Identifiers::default() };
            // One that is as it was is kept, so that tunnels share it.
            let known = self.by_node.get(node.name).filter(|known| ***known == routes).map(Arc::clone);
            next.by_node.insert(node.name.to_owned(), known.unwrap_or_else(|| Arc::new(routes)));
        }
        next
    }

    /// Decides about the targets that several nodes list.
    fn owners<'a>(&self, listed: &'a [Listed<'a>]) -> Owners<'a> {
        let mut wanted = HashMap::<&Target, Vec<&Listed<'_>>>::new();
        for node in listed {
            for target in &node.targets {
                wanted.entry(target).or_default().push(node);
            }
        }
        let networks = Networks::of(listed);
        let mut owners = Owners::default();
        for (target, mut nodes) in wanted {
            let holder =
                networks.holder(target).filter(|holder| nodes.iter().any(|node| node.name != *holder));
            if nodes.len() == 1 && holder.is_none() {
                continue;
            }
            let owner = self.owner(target, &nodes, holder);
            owners
                .lost
                .extend(nodes.iter().filter(|node| Some(node.name) != owner).map(|node| (target, node.name)));
            nodes.sort_by_key(|node| node.name);
            let mut names: Vec<_> = nodes.iter().take(MOST_NAMED).map(|node| node.name.to_owned()).collect();
            names.extend(
                holder.filter(|holder| !nodes.iter().any(|node| node.name == *holder)).map(str::to_owned),
            );
            let kept_by = owner.or(holder).map(str::to_owned);
            owners.contests.push(Contest { target: target.to_string(), nodes: names, kept_by });
        }
        owners.contests.sort_by(|a, b| a.target.cmp(&b.target));
        owners.contests.truncate(MOST_CONTESTS);
        owners
    }

    /// The node that keeps a contested target. `holder` has it in its pod network.
    fn owner<'a>(&self, target: &Target, nodes: &[&Listed<'a>], holder: Option<&str>) -> Option<&'a str> {
        let by =
            |keeps: &dyn Fn(&Listed<'_>) -> bool| nodes.iter().find(|node| keeps(node)).map(|node| node.name);
        if let Target::Host(Host::Name(name)) = target
            && let Some(own) = by(&|node| node.name.eq_ignore_ascii_case(name))
        {
            return Some(own);
        }
        if let Some(holder) = holder {
            return by(&|node| node.name == holder);
        }
        by(&|node| self.had(node.name, target))
    }

    fn had(&self, node: &str, target: &Target) -> bool {
        self.by_node.get(node).is_some_and(|known| match target {
            Target::Host(host) => known.hosts.contains(host),
            Target::Network(network) => known.cidrs.contains(network),
        })
    }
}

/// The outcome of all conflicts.
#[derive(Default)]
struct Owners<'a> {
    /// Targets that a node lists and does not get.
    lost: HashSet<(&'a Target, &'a str)>,
    contests: Vec<Contest>,
}

/// A node's object, parsed. Texts that are no target are left out.
struct Listed<'a> {
    name: &'a str,
    targets: Vec<Target>,
}

impl<'a> Listed<'a> {
    fn of(node: &'a Node) -> Self {
        let names = std::iter::once(&node.name).chain(&node.addresses);
        let hosts = names.filter_map(|text| Some(canonical_host(&Host::parse(text)?).into_owned()));
        let mut targets = Vec::new();
        let cidrs = node.pod_cidrs.iter().filter_map(|text| Some(canonical_network(text.parse().ok()?)));
        for target in hosts.map(Target::Host).chain(cidrs.map(Target::Network)) {
            // The host name is in most clusters the node's name.
            if !targets.contains(&target) {
                targets.push(target);
            }
        }
        Self { name: &node.name, targets }
    }
}

/// The pod networks of all nodes.
struct Networks<'a> {
    nodes: HashMap<Network, &'a str>,
    prefixes: BTreeSet<u8>,
}

impl<'a> Networks<'a> {
    fn of(listed: &'a [Listed<'a>]) -> Self {
        let mut nodes = HashMap::new();
        for node in listed {
            for target in &node.targets {
                if let Target::Network(network) = target {
                    nodes.insert(*network, node.name);
                }
            }
        }
        let prefixes = nodes.keys().map(Network::bits).collect();
        Self { nodes, prefixes }
    }

    /// The node in whose pod network an address lies.
    fn holder(&self, target: &Target) -> Option<&'a str> {
        let Target::Host(Host::Ip(ip)) = target else { return None };
        let of = |&bits: &u8| self.nodes.get(&Network::of(IpAddr::clone(ip), bits)?);
        self.prefixes.iter().rev().find_map(of).copied()
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Network(network) => network.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, addresses: &[&str], cidr: &str) -> Node {
        let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
        let pod_cidrs = if cidr.is_empty() { Vec::new() } else { vec![cidr.to_owned()] };
        Node { name: name.to_owned(), addresses, pod_cidrs }
    }

    fn next(before: &NodeRoutes, nodes: &[Node]) -> NodeRoutes {
        before.next(nodes.iter(), true)
    }

    fn hosts(routes: &NodeRoutes, node: &str) -> Vec<String> {
        routes.of(node).unwrap().hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_serves_its_name_its_addresses_and_its_pods() {
        let nodes =
            [node("a", &["10.0.0.1", "::ffff:10.0.0.2", "a", "A.example.", "no host"], "10.244.0.0/24")];
        let routes = next(&NodeRoutes::default(), &nodes);
        assert_eq!(hosts(&routes, "a"), ["a", "10.0.0.1", "10.0.0.2", "a.example"]);
        assert_eq!(routes.of("a").unwrap().cidrs[0].to_string(), "10.244.0.0/24");
        assert!(routes.of("b").is_none());
        for (host, is_listed) in
            [("a", true), ("10.0.0.2", true), ("10.244.0.9", true), ("10.244.1.9", false), ("b", false)]
        {
            assert_eq!(routes.list(&Host::parse(host).unwrap()), is_listed, "{host}");
        }
        let again = next(&routes, &nodes);
        assert!(Arc::ptr_eq(&again.of("a").unwrap(), &routes.of("a").unwrap()));
    }

    #[test]
    fn an_address_of_two_nodes_stays_with_the_earlier_one() {
        let (a, b) = (node("a", &["10.0.0.1"], ""), node("b", &["10.0.0.2"], ""));
        let before = next(&NodeRoutes::default(), &[a.clone(), b]);
        let b = node("b", &["10.0.0.2", "10.0.0.1"], "");
        let stolen = next(&before, &[a.clone(), b.clone()]);
        assert_eq!((hosts(&stolen, "a"), hosts(&stolen, "b")), (hosts(&before, "a"), hosts(&before, "b")));
        let contest = Contest {
            target: "10.0.0.1".to_owned(),
            nodes: vec!["a".to_owned(), "b".to_owned()],
            kept_by: Some("a".to_owned()),
        };
        assert_eq!(stolen.contests(), [contest]);
        // Also over further changes, until the earlier node is gone.
        let later = next(&stolen, &[a, b.clone(), node("c", &[], "")]);
        assert_eq!(hosts(&later, "b"), ["b", "10.0.0.2"]);
        let alone = next(&later, &[b]);
        assert_eq!(hosts(&alone, "b"), ["b", "10.0.0.2", "10.0.0.1"]);
        assert!(alone.contests().is_empty());
    }

    #[test]
    fn an_address_of_two_nodes_that_came_together_routes_to_neither() {
        let nodes = [node("a", &["10.0.0.1"], "10.244.0.0/24"), node("b", &["10.0.0.1"], "10.244.0.0/24")];
        let routes = next(&NodeRoutes::default(), &nodes);
        assert_eq!((hosts(&routes, "a"), hosts(&routes, "b")), (vec!["a".to_owned()], vec!["b".to_owned()]));
        assert!(routes.of("a").unwrap().cidrs.is_empty() && routes.of("b").unwrap().cidrs.is_empty());
        assert_eq!(routes.contests().len(), 2);
        assert!(routes.list(&Host::parse("10.0.0.1").unwrap()), "a contested address is the nodes'");
        assert!(routes.contests().iter().all(|contest| contest.kept_by.is_none()));
    }

    #[test]
    fn a_nodes_name_and_its_pods_are_not_for_others_to_list() {
        let before = next(&NodeRoutes::default(), &[node("b", &["a", "10.244.0.9"], "")]);
        assert_eq!(hosts(&before, "b"), ["b", "a", "10.244.0.9"]);
        let a = node("a", &["10.0.0.1", "10.244.0.1"], "10.244.0.0/24");
        let after = next(&before, &[a, node("b", &["a", "10.244.0.9"], "")]);
        assert_eq!(hosts(&after, "a"), ["a", "10.0.0.1", "10.244.0.1"]);
        assert_eq!(hosts(&after, "b"), ["b"]);
        let kept: Vec<_> = after.contests().iter().map(|contest| contest.kept_by.as_deref()).collect();
        assert_eq!(kept, [Some("a"), Some("a")]);
    }

    #[test]
    fn conflicts_are_bounded() {
        let addresses: Vec<_> = (0..250).map(|number| format!("10.0.0.{number}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let nodes: Vec<_> = (0..20).map(|number| node(&format!("n{number:02}"), &addresses, "")).collect();
        let routes = next(&NodeRoutes::default(), &nodes);
        assert_eq!(routes.contests().len(), MOST_CONTESTS);
        assert!(routes.contests().iter().all(|contest| contest.nodes.len() == MOST_NAMED));
    }
}
