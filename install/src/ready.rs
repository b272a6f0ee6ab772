//! Waiting for agents and kubelets, by the server's admin socket.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tunnel_operate::client::Client;
use tunnel_operate::progress::Progress;
use tunnel_operate::report::{ProbeRequest, ServerStatus, Status, TlsMode};

use crate::cluster::{Cluster, Machine, Workload};
use crate::fault::Fault;
use crate::say::say;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Limit of each of dial and TLS to a kubelet, in milliseconds.
const PROBE_LIMIT: u64 = 5000;

/// The agents that are waited for.
#[derive(Debug)]
pub(crate) struct Agents {
    pub(crate) workloads: Vec<Workload>,
    /// Whether the server lists nodes and knows which of them have no agent.
    pub(crate) listed: bool,
}

/// Waits until each ready Linux node has an agent on this host's server and its kubelet answers
/// through the tunnel. Other nodes are named and not waited for. A server that was replaced at
/// `restarted` has to have started since then.
///
/// # Errors
/// When that takes longer than `limit`, with what is missing.
pub(crate) async fn wait_for_nodes(
    cluster: &Cluster,
    socket: &Client,
    agents: &Agents,
    restarted: Option<Instant>,
    limit: Duration,
) -> Result<(), Fault> {
    let (deadline, mut progress) = (Instant::now() + limit, Progress::begin());
    loop {
        // A request that fails once, such as during a restart of etcd, is no reason to give up.
        let missing = match cluster.nodes().await {
            Err(fault) => first_line(&fault),
            Ok(nodes) => match look(cluster, &nodes, socket, agents, restarted).await {
                Ok(()) => break announce(&nodes),
                Err(missing) => missing,
            },
        };
        if Instant::now() >= deadline {
            let namespace = agents.workloads.first().map_or("tunnel-system", |agent| &agent.namespace);
            return Err(Fault::new(
                format!("after {} s, {missing}", limit.as_secs()),
                format!(
                    "kubectl -n {namespace} get pods -o wide, the pods' logs, and tunnel-server status; then run this again"
                ),
            ));
        }
        progress.during(&format!("waiting: {missing}"), sleep(LOOK)).await;
    }
    Ok(())
}

/// The failure without the thing to do about it.
fn first_line(fault: &Fault) -> String {
    fault.to_string().lines().next().unwrap_or_default().to_owned()
}

fn announce(nodes: &[Machine]) {
    let (served, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.is_awaited());
    say(&format!("ready    {} nodes have an agent, and their kubelets answer through it", served.len()));
    for node in others {
        let why = if node.linux { "it is not Ready" } else { "it does not run Linux" };
        say(&format!("skipped  node {}: {why}", node.name));
    }
}

/// Waits until all agents have the pod of the newest template, but for those on nodes that are
/// not ready.
///
/// # Errors
/// When that takes longer than `limit`.
pub(crate) async fn wait_for_rollouts(
    cluster: &Cluster,
    workloads: &[Workload],
    limit: Duration,
) -> Result<(), Fault> {
    let (deadline, mut progress) = (Instant::now() + limit, Progress::begin());
    loop {
        let missing = match cluster.nodes().await {
            Err(fault) => first_line(&fault),
            Ok(nodes) => match rolled_out(cluster, &nodes, workloads).await {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            },
        };
        if Instant::now() >= deadline {
            return Err(Fault::new(
                format!("after {} s, {missing}", limit.as_secs()),
                "kubectl get pods -A -o wide, and the agents' logs; then run this again",
            ));
        }
        progress.during(&format!("waiting: {missing}"), sleep(LOOK)).await;
    }
}

async fn rolled_out(cluster: &Cluster, nodes: &[Machine], workloads: &[Workload]) -> Result<(), String> {
    let absent = nodes.iter().filter(|node| !node.is_awaited()).count();
    for workload in workloads {
        let rollout = cluster.rollout(workload).await.map_err(|fault| fault.to_string())?;
        if !rollout.is_done(absent) {
            return Err(format!("{} of {} agents have the new pod", rollout.updated, rollout.desired));
        }
    }
    Ok(())
}

async fn look(
    cluster: &Cluster,
    nodes: &[Machine],
    socket: &Client,
    agents: &Agents,
    restarted: Option<Instant>,
) -> Result<(), String> {
    let status = match socket.status().await {
        Ok(Status::Server(status)) => status,
        Ok(Status::Agent(_)) => return Err("an agent, and no server, listens on the admin socket".to_owned()),
        Err(error) => return Err(format!("the server does not answer: {error}")),
    };
    if restarted.is_some_and(|at| Duration::from_secs(status.up) > at.elapsed()) {
        return Err("the server has not been replaced yet".to_owned());
    }
    rolled_out(cluster, nodes, &agents.workloads).await?;
    let awaited: Vec<_> = nodes.iter().filter(|node| node.is_awaited()).collect();
    if agents.listed {
        connected(&awaited, &status)?;
    } else if status.agents.connected == 0 {
        return Err("no agent is connected".to_owned());
    }
    for node in awaited {
        kubelet(node, socket).await?;
    }
    Ok(())
}

fn connected(awaited: &[&Machine], status: &ServerStatus) -> Result<(), String> {
    let nodes = status.nodes.as_ref().filter(|nodes| nodes.listed);
    let nodes = nodes.ok_or("the server has not listed the nodes yet")?;
    if nodes.expected == 0 {
        return Err("the server knows of no node yet".to_owned());
    }
    let missing: Vec<_> = awaited
        .iter()
        .filter(|node| nodes.missing.iter().any(|missing| missing.node == node.name))
        .map(|node| node.name.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let connected = awaited.len() - missing.len();
    let some = missing.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    Err(format!("{connected} of {} nodes have a connected agent; not {some}", awaited.len()))
}

async fn kubelet(node: &Machine, socket: &Client) -> Result<(), String> {
    let Some(address) = &node.address else { return Err(format!("node {} has no InternalIP", node.name)) };
    let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
    let target = format!("{host}:{}", node.kubelet_port);
    let request = ProbeRequest { target, tls: TlsMode::Always, timeout_ms: PROBE_LIMIT };
    match socket.probe(&request).await {
        Ok(report) => match report.failure {
            None => Ok(()),
            Some(failure) => Err(format!("the kubelet of {} does not answer: {}", node.name, failure.text)),
        },
        Err(error) => Err(format!("the kubelet of {} was not probed: {error}", node.name)),
    }
}
