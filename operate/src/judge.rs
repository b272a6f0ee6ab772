//! The state of a report, and the next command for each of its problems.

use std::collections::{BTreeMap, BTreeSet};

use crate::output::{about, ago};
use crate::report::{
    AgentStatus, Contested, Expiry, Health, Identities, Missing, Nodes, Problem, ServerStatus, Status,
};

/// Seconds before its expiry at which a certificate is a problem: two weeks are time to renew it.
const EXPIRES_SOON: i64 = 14 * 86_400;

/// `doctor` looks further ahead than a status does, in seconds: a month.
pub(crate) const EXPIRES_MONTH: i64 = 30 * 86_400;

/// The certificate has expired.
pub(crate) const fn expired(expiry: &Expiry) -> bool {
    expiry.left < 0
}

/// Seconds without the Kubernetes API after which the list of nodes counts as old.
const STALE: u64 = 300;

/// Most missing nodes of which each is a problem of its own.
const MOST_NAMED: usize = 20;

/// The worst of the problems.
pub fn health(problems: &[Problem]) -> Health {
    problems.iter().map(|problem| problem.health).max().unwrap_or(Health::Ok)
}

/// The problems of a program.
pub fn problems(status: &Status) -> Vec<Problem> {
    match status {
        Status::Server(server) => of_server(server),
        Status::Agent(agent) => of_agent(agent),
    }
}

/// The problems of one server.
pub fn of_server(server: &ServerStatus) -> Vec<Problem> {
    let mut problems = agents(server);
    common(&server.id, server.draining, server.certificate.as_ref(), &mut problems);
    problems
}

/// The problems of a server's agents.
pub(crate) fn agents(server: &ServerStatus) -> Vec<Problem> {
    let mut problems = Vec::new();
    // An empty cluster is no fault; without a list of nodes nobody knows.
    let needed = server.nodes.as_ref().is_none_or(|nodes| !nodes.listed || nodes.expected > 0);
    if server.agents.connected == 0 && needed {
        problems.push(Problem {
            health: Health::Down,
            what: format!("no agent is connected to {}", server.id),
            next: "tunnel-agent status, on a node".to_owned(),
        });
    }
    if let Some(nodes) = &server.nodes {
        of_nodes(&server.id, nodes, &mut problems);
    }
    if let Some(identities) = &server.identities {
        of_identities(&server.id, identities, &mut problems);
    }
    problems
}

fn of_identities(server: &str, identities: &Identities, problems: &mut Vec<Problem>) {
    // In other modes a proof that is missing changes no route.
    let by_proof = identities.mode == "strict" || identities.routes_from == "nodes";
    let contested = identities.contested.iter().filter(|_| by_proof);
    for Contested { target, nodes, kept_by } in contested.take(MOST_NAMED) {
        let kept = kept_by.as_ref().map_or_else(|| "no node".to_owned(), |node| format!("{node} alone"));
        problems.push(degraded(
            format!("the nodes {} list {target}: on {server} it routes to {kept}", nodes.join(", ")),
            format!(
                "kubectl get nodes -o wide, and delete or correct the node that should not have {target}"
            ),
        ));
    }
    let Some(nodes) = identities.nodes.as_ref().filter(|_| identities.routes_from == "nodes") else { return };
    if !nodes.listed || nodes.stale.is_some_and(|age| age > STALE) {
        let what = match nodes.stale {
            Some(age) => format!("the routes of {server} are those of {} ago", about(age)),
            None => format!("{server} has no routes yet: it has not listed the nodes"),
        };
        let next = format!("the log of tunnel-server on {server}, for \"cannot follow the nodes\"");
        problems.push(degraded(what, next));
    }
}

fn of_nodes(server: &str, nodes: &Nodes, problems: &mut Vec<Problem>) {
    if !nodes.listed || nodes.stale.is_some_and(|age| age > STALE) {
        let since = nodes.stale.map_or_else(String::new, |age| format!(", for {}", about(age)));
        let what = if nodes.listed { "cannot follow the nodes" } else { "has not listed the nodes yet" };
        problems.push(degraded(
            format!("{server} {what}{since}"),
            format!("the log of tunnel-server on {server}, for \"cannot follow the nodes\""),
        ));
    }
    for missing in nodes.missing.iter().take(MOST_NAMED) {
        let Missing { node, since, seen } = missing;
        let known = if *seen { "" } else { ", and was never heard of" };
        problems.push(degraded(
            format!("{node} is not on {server} since {}{known}", about(*since)),
            format!("tunnel-agent status, on {node}"),
        ));
    }
    let more = (nodes.expected - nodes.connected.min(nodes.expected))
        .saturating_sub(nodes.missing.len().min(MOST_NAMED));
    if more > 0 {
        let next = format!("tunnel-server status -o json, on {server}");
        problems.push(degraded(format!("{more} more nodes are not on {server}"), next));
    }
}

fn of_agent(agent: &AgentStatus) -> Vec<Problem> {
    let mut problems = tunnels(agent);
    common(&agent.id, agent.draining, agent.certificate.as_ref(), &mut problems);
    problems
}

/// The problems of an agent's tunnels.
pub(crate) fn tunnels(agent: &AgentStatus) -> Vec<Problem> {
    let mut problems = Vec::new();
    let held = agent.servers.iter().filter(|server| server.state != "silent").count();
    if held < agent.wanted || held == 0 {
        let health = if held == 0 { Health::Down } else { Health::Degraded };
        let what = format!("{} has a tunnel to {held} of {} servers", agent.id, agent.wanted.max(1));
        let next = match agent.not_held.iter().find(|address| address.error.is_some()) {
            Some(address) => {
                // Behind an address may be the name that its certificate is for.
                let at = address.address.split(' ').next().unwrap_or_default();
                format!("tunnel-agent probe {at}")
            }
            None => "tunnel-server status, on the control plane".to_owned(),
        };
        problems.push(Problem { health, what, next });
    }
    problems
}

fn common(id: &str, draining: bool, certificate: Option<&Expiry>, problems: &mut Vec<Problem>) {
    if draining {
        problems.push(degraded(format!("{id} is draining"), "wait for its end".to_owned()));
    }
    if let Some(expiry) = certificate.filter(|expiry| expiry.left < EXPIRES_SOON) {
        let Expiry { flag, file, left, .. } = expiry;
        problems.push(degraded(format!("{flag} of {id}, {file}, {}", ago(*left)), format!("renew {file}")));
    }
}

const fn degraded(what: String, next: String) -> Problem {
    Problem { health: Health::Degraded, what, next }
}

/// Nodes that no server has, and nodes that not every server has; `None` where a server names
/// only some of its missing nodes, or none expects any.
pub fn across(servers: &[ServerStatus]) -> Option<Coverage> {
    let mut absent = BTreeMap::<&str, usize>::new();
    let (mut expected, mut counting) = (0, 0);
    for nodes in servers.iter().filter_map(|server| server.nodes.as_ref()).filter(|nodes| nodes.listed) {
        if nodes.missing.len() + nodes.connected < nodes.expected {
            return None;
        }
        counting += 1;
        expected = expected.max(nodes.expected);
        let names: BTreeSet<_> = nodes.missing.iter().map(|missing| missing.node.as_str()).collect();
        names.into_iter().for_each(|name| *absent.entry(name).or_default() += 1);
    }
    let nowhere = absent.values().filter(|count| **count == counting).count();
    (counting > 0).then(|| Coverage {
        expected,
        reachable: expected.saturating_sub(nowhere),
        everywhere: expected.saturating_sub(absent.len()),
    })
}

/// Numbers of nodes with agents, over all servers that expect nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// Nodes that should have one.
    pub expected: usize,
    /// Nodes whose agent is on at least one server.
    pub reachable: usize,
    /// Nodes whose agent is on all of them.
    pub everywhere: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Agents;

    fn server(connected: usize, expected: usize, missing: &[&str]) -> ServerStatus {
        let missing = missing.iter().map(|node| Missing { node: (*node).to_owned(), since: 42, seen: true });
        ServerStatus {
            id: "cp-2".to_owned(),
            agents: Agents { connected, ..Agents::default() },
            nodes: Some(Nodes {
                listed: true,
                expected,
                connected,
                missing: missing.collect(),
                ..Nodes::default()
            }),
            ..ServerStatus::default()
        }
    }

    #[test]
    fn a_server_is_judged_by_what_is_expected() {
        let of = |server: &ServerStatus| health(&of_server(server));
        assert_eq!(of(&server(2, 2, &[])), Health::Ok);
        assert_eq!(of(&server(0, 0, &[])), Health::Ok, "an empty cluster");
        assert_eq!(of(&server(1, 2, &["worker-7"])), Health::Degraded);
        assert_eq!(of(&server(0, 1, &["worker-7"])), Health::Down);
        assert_eq!(of(&ServerStatus::default()), Health::Down, "nobody knows the nodes");
        assert_eq!(of(&ServerStatus { draining: true, ..server(1, 1, &[]) }), Health::Degraded);
        let soon = Expiry { left: 86_400, ..Expiry::default() };
        assert_eq!(of(&ServerStatus { certificate: Some(soon), ..server(1, 1, &[]) }), Health::Degraded);
        let mut stale = server(1, 1, &[]);
        stale.nodes.as_mut().unwrap().stale = Some(STALE + 1);
        assert_eq!(of(&stale), Health::Degraded);
    }

    #[test]
    fn a_missing_node_is_named_with_its_time_and_a_command() {
        let problems = of_server(&server(1, 2, &["worker-7"]));
        assert_eq!(problems[0].what, "worker-7 is not on cp-2 since 42s");
        assert_eq!(problems[0].next, "tunnel-agent status, on worker-7");
        let names: Vec<_> = (0..50).map(|number| format!("n{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let problems = of_server(&server(1, 101, &names));
        assert_eq!(problems.len(), MOST_NAMED + 1);
        assert_eq!(problems[MOST_NAMED].what, "80 more nodes are not on cp-2");
    }

    #[test]
    fn an_agent_is_well_with_all_servers_and_down_with_none() {
        let held = crate::report::Held { state: "connected".to_owned(), ..Default::default() };
        let silent = crate::report::Held { state: "silent".to_owned(), ..Default::default() };
        let agent = |wanted, servers: &[&crate::report::Held]| {
            let servers = servers.iter().map(|held| (*held).clone()).collect();
            let agent = AgentStatus { wanted, servers, ..AgentStatus::default() };
            health(&of_agent(&agent))
        };
        assert_eq!(agent(2, &[&held, &held]), Health::Ok);
        assert_eq!(agent(2, &[&held, &silent]), Health::Degraded);
        assert_eq!(agent(2, &[&silent]), Health::Down);
        assert_eq!(agent(0, &[]), Health::Down);
    }

    #[test]
    fn coverage_is_known_only_where_all_missing_nodes_are_named() {
        let coverage = across(&[server(2, 3, &["a"]), server(1, 3, &["a", "b"])]).unwrap();
        assert_eq!(coverage, Coverage { expected: 3, reachable: 2, everywhere: 1 });
        assert_eq!(across(&[server(0, 3, &["a"])]), None);
        assert_eq!(across(&[ServerStatus::default()]), None);
    }
}
