//! The servers of several control plane nodes: their addresses in the agents' list, and the file
//! of a node that is about to join.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cluster::{Cluster, title};
use crate::diff::diff;
use crate::fault::Fault;
use crate::host::{EGRESS, Host};
use crate::manifests::{self, ADDRESS, NAMESPACE};
use crate::say::say;
use crate::site::Site;

/// Writes the egress configuration, which kubeadm's configuration lets the kube-apiserver of every
/// control plane node mount.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn before_join(host: &Host, dry_run: bool) -> Result<(), Fault> {
    let before = host.read(EGRESS)?;
    say(&diff(EGRESS, before.as_deref(), Some(manifests::EGRESS)));
    if dry_run {
        say("nothing was changed: --dry-run");
        return Ok(());
    }
    host.write(EGRESS, manifests::EGRESS, 0o644)?;
    say(&format!(
        "wrote    {EGRESS}\n  next: kubeadm join ... --control-plane, then tunnel-server install kubeadm --activate: until \
         that ends\n  this node's kube-apiserver reaches no kubelet and no webhook"
    ));
    Ok(())
}

/// The servers that agents have to dial: those of earlier runs on other nodes, and this one.
///
/// # Errors
/// When Helm installed the agents, or the cluster does not answer.
pub(crate) async fn wanted(site: &Site, agents: Option<&Value>) -> Result<Vec<String>, Fault> {
    if let Some(found) = agents
        && found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    {
        return Err(Fault::new(
            format!("{} was installed by Helm", title(found)),
            format!("helm -n {NAMESPACE} uninstall its release, or go on with the chart"),
        ));
    }
    let listed = agents.map(manifests::servers_of).unwrap_or_default();
    let known = addresses(&site.cluster).await?;
    let (mut servers, gone): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|address| *address == site.address || exists(address, &known));
    let others: Vec<_> = servers.iter().filter(|server| **server != site.address).cloned().collect();
    if !others.is_empty() {
        say(&format!("ok       agents dial other servers, which stay: {}", others.join(", ")));
    }
    if !gone.is_empty() {
        say(&format!("ok       agents will forget servers whose node is gone: {}", gone.join(", ")));
    }
    if !servers.contains(&site.address) {
        servers.push(site.address.clone());
    }
    Ok(servers)
}

/// All addresses of nodes, of their kube-apiservers and of their servers.
async fn addresses(cluster: &Cluster) -> Result<Vec<String>, Fault> {
    let nodes = cluster.nodes().await?;
    let mut known = Vec::new();
    for pod in cluster.servers(&nodes).await? {
        known.extend(pod.annotation(ADDRESS).map(str::to_owned));
    }
    for pod in cluster.apiservers_on(&nodes).await? {
        known.extend(pod.endpoint.as_deref().and_then(host_of));
    }
    known.extend(nodes.into_iter().flat_map(|node| node.addresses));
    Ok(known)
}

/// The address of an address and port.
fn host_of(endpoint: &str) -> Option<String> {
    endpoint.rsplit_once(':').map(|(host, _)| host.trim_matches(['[', ']']).to_owned())
}

/// Whether a server may be at the address. An IP address that nothing has is one of a node that
/// left; where a name leads nobody knows.
fn exists(address: &str, known: &[String]) -> bool {
    let Ok(ip) = address.parse::<IpAddr>() else { return true };
    known.iter().any(|other| other.parse() == Ok(ip))
}

/// The merge patch by which agents forget this node's server; `None` if they do not know it.
pub(crate) fn without(daemonset: &Value, address: &str) -> Option<Value> {
    let servers = manifests::servers_of(daemonset);
    if !servers.iter().any(|server| server == address) {
        return None;
    }
    let left: Vec<_> = servers.into_iter().filter(|server| server != address).collect();
    let mut containers = daemonset.pointer("/spec/template/spec/containers")?.clone();
    for arg in containers[0]["args"].as_array_mut()? {
        if arg.as_str().is_some_and(|arg| arg.starts_with("--proxy-server-host=")) {
            *arg = json!(format!("--proxy-server-host={}", left.join(",")));
        }
    }
    let meta =
        json!({"name": daemonset["metadata"]["name"], "namespace": daemonset["metadata"]["namespace"]});
    Some(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": meta,
        "spec": {"template": {"spec": {"containers": containers}}},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_gone_when_nothing_in_the_cluster_has_its_address() {
        let known = ["cp-1".to_owned(), "10.0.0.1".to_owned(), host_of("[fd00::1]:6443").unwrap()];
        for address in ["10.0.0.1", "fd00:0::1", "cp-2.example"] {
            assert!(exists(address, &known), "{address}");
        }
        for address in ["10.0.0.2", "10.0.0.11", "fd00::2"] {
            assert!(!exists(address, &known), "{address}");
        }
    }

    #[test]
    fn agents_forget_one_server_and_keep_all_else() {
        let images = manifests::Images { repository: "r".to_owned(), tag: "1".to_owned() };
        let servers = ["10.0.0.1".to_owned(), "10.0.0.11".to_owned()];
        let objects = manifests::objects(&images, &servers, 9132).unwrap();
        let daemonset = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let patch = without(daemonset, "10.0.0.1").unwrap();
        assert_eq!(manifests::servers_of(&patch), ["10.0.0.11"]);
        let args = |object: &Value| {
            let args = object.pointer("/spec/template/spec/containers/0/args").unwrap().as_array().unwrap();
            args.iter().filter(|arg| !arg.to_string().contains("server-host")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(args(&patch), args(daemonset));
        assert_eq!(patch["metadata"], json!({"name": manifests::AGENT, "namespace": NAMESPACE}));
        assert_eq!(without(daemonset, "10.0.0.2"), None);
    }

    #[test]
    fn a_node_that_will_join_gets_the_egress_configuration_alone() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        before_join(&host, true).unwrap();
        assert_eq!(host.read(EGRESS).unwrap(), None);
        for _ in 0..2 {
            before_join(&host, false).unwrap();
            assert_eq!(host.read(EGRESS).unwrap().as_deref(), Some(manifests::EGRESS));
        }
        let made: Vec<_> = std::fs::read_dir(host.path(crate::host::DIRECTORY)).unwrap().collect();
        assert_eq!(made.len(), 1);
    }
}
