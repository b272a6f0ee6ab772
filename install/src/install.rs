//! `install kubeadm`: rights and agents, then the server, and the kube-apiserver last.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tunnel_operate::Program;
use tunnel_operate::client::Client;

use crate::activation::{MODE, Manifest, recover, switch};
use crate::apiserver::EGRESS_FLAG;
use crate::cluster::{ApiServerPod, Cluster, Workload};
use crate::diff::diff;
use crate::fault::Fault;
use crate::host::{APISERVER, EGRESS, Host, POLICY, SERVER, SERVER_KUBECONFIG};
use crate::manifests::{self, AGENT, Earlier, Images, NAMESPACE};
use crate::plan::Change;
use crate::ready::{Agents, wait_for_nodes};
use crate::say::{confirm, say};
use crate::site::Site;
use crate::verify::{self, verify};
use crate::{KubeadmArgs, konnectivity, kubeconfig, servers, yaml};

/// Name of kubeadm's ConfigMap in diffs.
pub(crate) const CONFIG_MAP: &str = "ConfigMap kube-system/kubeadm-config: ClusterConfiguration";

/// # Errors
/// When a step failed. Steps before it stay, and the next run goes on from there.
pub(crate) async fn run(args: &KubeadmArgs) -> Result<(), Fault> {
    let host = Host::new(Path::new("/"));
    if args.before_join {
        return servers::before_join(&host, args.common.dry_run);
    }
    let cluster = Cluster::new(&args.common.kubeconfig).await?;
    recover(&host, &cluster, args.common.timeout).await?;
    let choices = Choices::new(&host, &cluster, args).await?;
    let site = Site::examine(host, cluster, choices.address.clone()).await?;
    if let Some(egress) = site.egress().filter(|file| *file != EGRESS) {
        return konnectivity::install(&site, egress, &choices.images, &args.common).await;
    }
    let changes = changes(&site, &choices).await?;
    let others = without_egress(&site).await?;
    for change in &changes {
        print(&change.show());
    }
    let activates = args.activate && (!site.is_active() || configures(&site, &others));
    if args.activate {
        print(&diff(
            APISERVER,
            Some(&site.apiserver.render()),
            Some(&site.apiserver.with_egress(EGRESS).render()),
        ));
        if configures(&site, &others) {
            let after = site.configuration.with_egress(EGRESS).render();
            print(&diff(CONFIG_MAP, Some(&site.configuration.render()), Some(&after)));
        }
    }
    if args.common.dry_run {
        say("nothing was changed: --dry-run");
        return Ok(());
    }
    if !args.common.yes && (activates || !changes.is_empty()) {
        confirm("make these changes?")?;
    }
    let began = Instant::now();
    for change in &changes {
        change.make(&site.host, &site.cluster).await?;
    }
    let replaced = changes.iter().any(|change| matches!(change, Change::File { name, .. } if name == SERVER));
    let socket = Client::new(Path::new(Program::Server.socket()));
    let restarted = replaced.then_some(began);
    let agents = Agents { workloads: vec![agents()], listed: true };
    wait_for_nodes(&site.cluster, &socket, &agents, restarted, args.common.timeout).await?;
    if args.activate {
        activate(&site, &others, args.common.timeout).await
    } else {
        if !site.is_active() {
            say(
                "The kube-apiserver does not use the tunnel yet.\n  next: tunnel-server install kubeadm --activate",
            );
        }
        Ok(())
    }
}

fn print(text: &str) {
    if !text.is_empty() {
        say(text);
    }
}

/// Flags, the choices of earlier runs, and defaults, in this order.
struct Choices {
    images: Images,
    port: u16,
    address: Option<String>,
    /// The agents that are there.
    agents: Option<Value>,
}

impl Choices {
    async fn new(host: &Host, cluster: &Cluster, args: &KubeadmArgs) -> Result<Self, Fault> {
        let agents = cluster.get(&daemonset()).await?;
        let server = host.read(SERVER)?.map(|text| yaml::parse(SERVER, &text)).transpose()?;
        let earlier = Earlier::read(agents.as_ref(), server.as_ref());
        let repository = args.image_repository.clone().or(earlier.repository);
        Ok(Self {
            images: Images {
                repository: repository.unwrap_or_else(|| "localhost".to_owned()),
                tag: args.image_tag.clone(),
            },
            port: args.agent_port.or(earlier.port).unwrap_or(8132),
            address: args.address.clone().or(earlier.address),
            agents,
        })
    }
}

/// All changes but those of the kube-apiserver, in their order.
async fn changes(site: &Site, choices: &Choices) -> Result<Vec<Change>, Fault> {
    let Choices { images, port, agents, .. } = choices;
    let servers = servers::wanted(site, agents.as_ref()).await?;
    let mut changes = Vec::new();
    for object in manifests::objects(images, &servers, *port)? {
        // A policy that is there is the operator's.
        let is_policy = object["metadata"]["name"] == manifests::AGENTS_POLICY;
        if is_policy && site.cluster.get(&object).await?.is_some() {
            continue;
        }
        changes.extend(Change::of_applied(&site.cluster, object).await?);
    }
    let kubeconfig = kubeconfig::of_server(site).await?;
    let server = manifests::server(images, &site.address, *port)?;
    changes.extend(Change::of_file(&site.host, EGRESS, Some(manifests::EGRESS), 0o644)?);
    if site.host.read(POLICY)?.is_none() {
        changes.extend(Change::of_file(&site.host, POLICY, Some(manifests::POLICY), 0o644)?);
    }
    changes.extend(Change::of_file(&site.host, SERVER_KUBECONFIG, Some(&kubeconfig), 0o600)?);
    changes.extend(Change::of_file(&site.host, SERVER, Some(&server), MODE)?);
    Ok(changes)
}

fn agents() -> Workload {
    Workload { kind: "DaemonSet", namespace: NAMESPACE.to_owned(), name: AGENT.to_owned() }
}

/// The DaemonSet of agents, without its content.
pub(crate) fn daemonset() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": AGENT, "namespace": NAMESPACE}})
}

/// Other kube-apiservers that do not use the tunnel.
async fn without_egress(site: &Site) -> Result<Vec<ApiServerPod>, Fault> {
    let mut pods = site.cluster.apiservers_on(&site.cluster.nodes().await?).await?;
    pods.retain(|pod| {
        pod.endpoint.as_deref() != site.apiserver.endpoint() && pod.flag(EGRESS_FLAG) != Some(EGRESS)
    });
    Ok(pods)
}

/// Whether kubeadm's configuration is changed. An upgrade of a node without the egress file
/// would make a kube-apiserver that cannot start, so that waits for the last of several nodes.
fn configures(site: &Site, others: &[ApiServerPod]) -> bool {
    others.is_empty() && site.configuration.with_egress(EGRESS) != site.configuration
}

async fn activate(site: &Site, others: &[ApiServerPod], limit: Duration) -> Result<(), Fault> {
    let manifest = site.apiserver.with_egress(EGRESS);
    let selector = format!("app.kubernetes.io/name={AGENT}");
    let verified = verify(&site.local, NAMESPACE, &selector, verify::Program::Ours);
    if manifest == site.apiserver {
        verified.await?;
    } else {
        let manifest = Manifest::new(&site.host, manifest)?;
        switch(&site.host, &site.cluster, &manifest, limit, verified).await?;
    }
    if configures(site, others) {
        let map = site.config_map_with(&site.configuration.with_egress(EGRESS));
        site.cluster.replace_kubeadm_config(&map).await?;
        say("applied  the ConfigMap kube-system/kubeadm-config, so that kubeadm upgrade keeps the tunnel");
    }
    let rest: Vec<_> = others.iter().map(|pod| pod.pod.node.as_str()).collect();
    if rest.is_empty() {
        say(
            "The tunnel is active.\n  next: tunnel-server status, and tunnel-server doctor when something fails",
        );
    } else {
        say(&format!(
            "The tunnel is active on this node. kubeadm's configuration waits for the others: before that, kubeadm upgrade\n\
             undoes this. \n  next: tunnel-server install kubeadm --activate on {}",
            rest.join(", ")
        ));
    }
    Ok(())
}
