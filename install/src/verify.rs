//! A real log and a real command, from the kube-apiserver to agents' pods.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tunnel_operate::progress::Progress;

use crate::cluster::{Cluster, Machine, Pod};
use crate::fault::Fault;
use crate::say::say;

/// Time for a kube-apiserver that has just started: its first requests come while it still
/// reads its caches.
const LIMIT: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_secs(1);

/// Nodes that are tried: a few of many show that the path works, and `status` has shown that
/// all of them are connected.
const NODES: usize = 3;

/// Whose pods the agents are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Program {
    Ours,
    /// Its image has no command that ends with success.
    Konnectivity,
}

/// Reads logs in agents' pods on up to three nodes, and runs a command in them if they are ours.
///
/// # Errors
/// When one of them does not work within a minute.
pub(crate) async fn verify(
    cluster: &Cluster,
    namespace: &str,
    selector: &str,
    program: Program,
) -> Result<(), Fault> {
    let proof = match program {
        Program::Ours => "kubectl logs and kubectl exec",
        Program::Konnectivity => "kubectl logs",
    };
    let (deadline, mut progress) = (Instant::now() + LIMIT, Progress::begin());
    loop {
        let tried = once(cluster, namespace, selector, program);
        match progress.during(&format!("verifying: {proof}"), tried).await {
            Ok(nodes) => {
                say(&format!("verified {proof} on {}", nodes.join(", ")));
                return Ok(());
            }
            Err(fault) if Instant::now() >= deadline => return Err(fault),
            Err(_) => sleep(LOOK).await,
        }
    }
}

async fn once(
    cluster: &Cluster,
    namespace: &str,
    selector: &str,
    program: Program,
) -> Result<Vec<String>, Fault> {
    let mut nodes = cluster.nodes().await?;
    nodes.retain(Machine::is_awaited);
    let pods = cluster.pods_of(namespace, selector, &nodes).await?;
    let pods: Vec<&Pod> = pods.iter().filter(|pod| pod.ready).take(NODES).collect();
    if pods.is_empty() {
        return Err(Fault::new("no agent's pod is ready", format!("kubectl -n {namespace} get pods")));
    }
    for pod in &pods {
        let hint = |fault: Fault| fault.and(&format!("the pod is on node {}", pod.node));
        if cluster.last_line(namespace, &pod.name).await.map_err(hint)?.is_empty() {
            return Err(Fault::new(format!("the log of {} is empty", pod.name), "run this again"));
        }
        if program == Program::Konnectivity {
            continue;
        }
        let output =
            cluster.output(namespace, &pod.name, &["/tunnel-agent", "--version"]).await.map_err(hint)?;
        if !output.starts_with("tunnel-agent ") {
            return Err(Fault::new(format!("exec in {} printed {output:?}", pod.name), "run this again"));
        }
    }
    Ok(pods.iter().map(|pod| pod.node.clone()).collect())
}
