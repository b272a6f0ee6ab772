//! `uninstall kubeadm`: the kube-apiserver first, then the server, and agents and rights last.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use tunnel_operate::Program;
use tunnel_operate::client::{Client, ClientError};
use tunnel_operate::progress::Progress;

use crate::activation::{Manifest, recover, switch};
use crate::cluster::Cluster;
use crate::diff::diff;
use crate::fault::Fault;
use crate::host::{APISERVER, DIRECTORY, Host, SERVER};
use crate::install::{CONFIG_MAP, daemonset};
use crate::manifests::{self, Earlier, Images, NAMESPACE};
use crate::plan::Change;
use crate::say::{confirm, say};
use crate::site::Site;
use crate::{CommonArgs, konnectivity, servers, yaml};

/// Limit of the server's end: its drain takes 25 s at most.
const END: Duration = Duration::from_secs(60);

const LOOK: Duration = Duration::from_secs(1);

/// Directories that the kubelet made for the server's sockets.
const EMPTIED: [&str; 2] = ["/run/tunnel", "/run/tunnel-server"];

/// # Errors
/// When a step failed. Steps before it stay undone, and the next run goes on from there.
pub(crate) async fn run(args: &CommonArgs) -> Result<(), Fault> {
    let (host, cluster) = (Host::new(Path::new("/")), Cluster::new(&args.kubeconfig).await?);
    recover(&host, &cluster, args.timeout).await?;
    let server = host.read(SERVER)?.map(|text| yaml::parse(SERVER, &text)).transpose()?;
    let address = Earlier::read(None, server.as_ref()).address;
    let site = Site::examine(host, cluster, address).await?;
    if let Some(manifest) = konnectivity::is_moved(&site)? {
        return konnectivity::uninstall(&site, &manifest, args).await;
    }
    let others = others(&site).await?;
    let last = others.is_empty();
    let changes = changes(&site, last).await?;
    let configuration = site.configuration.without_egress();
    let configures = configuration != site.configuration;
    if configures {
        say(&diff(CONFIG_MAP, Some(&site.configuration.render()), Some(&configuration.render())));
    }
    if site.is_active() {
        let after = site.apiserver.without_egress().render();
        say(&diff(APISERVER, Some(&site.apiserver.render()), Some(&after)));
    }
    for change in &changes {
        say(&change.show());
    }
    say(&format!("--- {DIRECTORY} (removed with all that is in it)"));
    if args.dry_run {
        say("nothing was changed: --dry-run");
        return Ok(());
    }
    if !args.yes {
        confirm("make these changes?")?;
    }
    if configures {
        site.cluster.replace_kubeadm_config(&site.config_map_with(&configuration)).await?;
        say("applied  the ConfigMap kube-system/kubeadm-config");
    }
    if site.is_active() {
        let manifest = Manifest::new(&site.host, site.apiserver.without_egress())?;
        switch(&site.host, &site.cluster, &manifest, args.timeout, async { Ok(()) }).await?;
    }
    for change in &changes {
        change.make(&site.host, &site.cluster).await?;
        if matches!(change, Change::File { .. }) {
            wait_for_end().await?;
        }
    }
    if last {
        wait_for_namespace(&site.cluster, args.timeout).await?;
    }
    for directory in EMPTIED {
        site.host.remove_empty(directory)?;
    }
    site.host.remove_directory(DIRECTORY)?;
    if last {
        say("The tunnel is gone.");
        return Ok(());
    }
    let others = others.join(", ");
    say(&format!(
        "The tunnel is gone from this node and from kubeadm's configuration: kubeadm upgrade undoes it on the others.\n  \
         next: tunnel-server uninstall kubeadm on {others}; or, when this node has left the cluster,\n  \
         tunnel-server install kubeadm --activate on one of them",
    ));
    Ok(())
}

/// Waits until the namespace is gone: while it ends, a new installation is refused.
async fn wait_for_namespace(cluster: &Cluster, limit: Duration) -> Result<(), Fault> {
    let (began, mut progress) = (Instant::now(), Progress::begin());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    while cluster.get(&namespace).await?.is_some() {
        if began.elapsed() >= limit {
            return Err(Fault::new(
                format!("the namespace {NAMESPACE} is not gone after {} s", limit.as_secs()),
                format!("kubectl get namespace {NAMESPACE} -o yaml; then run this again"),
            ));
        }
        progress.during("waiting for the end of the namespace", sleep(LOOK)).await;
    }
    Ok(())
}

/// Other control plane nodes that run a server.
async fn others(site: &Site) -> Result<Vec<String>, Fault> {
    let servers = site.cluster.servers(&site.cluster.nodes().await?).await?;
    let own = crate::activation::own(&site.cluster, &site.apiserver).await?.pod.node;
    Ok(servers.into_iter().map(|pod| pod.node).filter(|node| *node != own).collect())
}

/// The server's static pod, then the objects in the opposite order of their creation. While other
/// nodes have servers, agents only forget this one, and first: its address is in the static pod.
async fn changes(site: &Site, last: bool) -> Result<Vec<Change>, Fault> {
    let server = Change::of_file(&site.host, SERVER, None, 0o600)?;
    if !last {
        let found = site.cluster.get(&daemonset()).await?;
        let forgotten = match found.and_then(|found| servers::without(&found, &site.address)) {
            Some(patch) => Change::of_patched(&site.cluster, patch).await?,
            None => None,
        };
        return Ok(forgotten.into_iter().chain(server).collect());
    }
    let mut changes: Vec<_> = server.into_iter().collect();
    let unused = Images { repository: String::new(), tag: String::new() };
    for object in manifests::objects(&unused, &[], 0)?.into_iter().rev() {
        changes.extend(Change::of_deleted(&site.cluster, object).await?);
    }
    Ok(changes)
}

/// Waits until the server has ended, so that agents that leave later find no server to return to.
///
/// # Errors
/// When it still runs after a minute.
pub(crate) async fn wait_for_end() -> Result<(), Fault> {
    let socket = Client::new(Path::new(Program::Server.socket()));
    let (began, mut progress) = (Instant::now(), Progress::begin());
    while !matches!(socket.status().await, Err(ClientError::Absent { .. })) {
        if began.elapsed() >= END {
            return Err(Fault::new(
                format!("the server still runs {} s after its manifest went away", END.as_secs()),
                "crictl ps --name tunnel-server; then run this again",
            ));
        }
        progress.during("waiting for the end of the server", sleep(LOOK)).await;
    }
    Ok(())
}
