//! Expected nodes against connected agents.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;
use tunnel_kube::nodes::{Node, Nodes};
use tunnel_operate::report::{Missing, Nodes as Report};
use tunnel_proto::target::Host;

use crate::agents::{AgentTunnel, Registry};
use crate::canonical::canonical_host;

/// Compares with the usable agents; names at most `most` missing nodes, those that are missing for the longest.
pub(super) fn compare(
    nodes: &Nodes,
    usable: &[Arc<AgentTunnel>],
    registry: &Registry,
    most: usize,
) -> Report {
    let mut present = Present::default();
    for agent in usable {
        present.add(&agent.id, agent.routes().hosts(), ());
    }
    let absent: Vec<_> = nodes.iter().filter(|(node, _)| present.of(node).is_none()).collect();
    let mut missing = if absent.is_empty() { Vec::new() } else { described(&absent, registry) };
    missing.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.node.cmp(&b.node)));
    missing.truncate(most);
    Report {
        listed: nodes.is_listed(),
        stale: nodes.stale_since().map(|since| since.elapsed().as_secs()),
        expected: nodes.len(),
        connected: nodes.len() - absent.len(),
        missing,
    }
}

fn described(absent: &[(&Node, Instant)], registry: &Registry) -> Vec<Missing> {
    let mut left = Present::default();
    registry.for_each_departed(|id, routes, at| left.add(id, routes.hosts(), at));
    let missing = absent.iter().map(|(node, known)| {
        let last = left.of(node).copied();
        Missing {
            node: node.name.clone(),
            since: last.unwrap_or(*known).elapsed().as_secs(),
            seen: last.is_some(),
        }
    });
    missing.collect()
}

/// Agents by the names of nodes that they may stand for.
struct Present<T> {
    ids: HashMap<String, T>,
    hosts: HashMap<Host, T>,
}

impl<T> Default for Present<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), hosts: HashMap::new() }
    }
}

impl<T: Copy> Present<T> {
    /// A later agent of the same name takes its place.
    fn add<'a>(&mut self, id: &str, hosts: impl Iterator<Item = &'a Host>, what: T) {
        self.ids.insert(id.to_owned(), what);
        self.hosts.extend(hosts.map(|host| (canonical_host(host).into_owned(), what)));
    }

    /// An agent counts for a node by its id, or by an identifier that is the node's name or
    /// one of its addresses.
    fn of(&self, node: &Node) -> Option<&T> {
        let names: HashSet<&str> =
            node.addresses.iter().map(String::as_str).chain([node.name.as_str()]).collect();
        let by_host = || {
            names.into_iter().filter_map(Host::parse).find_map(|host| self.hosts.get(&canonical_host(&host)))
        };
        self.ids.get(&node.name).or_else(by_host)
    }
}
