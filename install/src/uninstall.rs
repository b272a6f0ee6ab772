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
use crate::{CommonArgs, konnectivity, yaml};

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
    let last = is_last(&site).await?;
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
    say(if last { "The tunnel is gone." } else { "The tunnel is gone from this node." });
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

/// Whether no other control plane node runs a server.
async fn is_last(site: &Site) -> Result<bool, Fault> {
    let servers = site.cluster.pods_of("kube-system", "app.kubernetes.io/name=tunnel-server").await?;
    let own = crate::activation::own(&site.cluster, &site.apiserver).await?.pod.node;
    Ok(servers.iter().all(|pod| pod.node == own))
}

/// The server's static pod, then the objects in the opposite order of their creation; while
/// other nodes have servers, only this one's address leaves the agents' list.
async fn changes(site: &Site, last: bool) -> Result<Vec<Change>, Fault> {
    let mut changes: Vec<_> = Change::of_file(&site.host, SERVER, None, 0o600)?.into_iter().collect();
    let unused = Images { repository: String::new(), tag: String::new() };
    let objects = manifests::objects(&unused, &[], 0)?;
    if last {
        for object in objects.into_iter().rev() {
            changes.extend(Change::of_deleted(&site.cluster, object).await?);
        }
        return Ok(changes);
    }
    if let Some(mut found) = site.cluster.get(&daemonset()).await? {
        let servers: Vec<_> =
            manifests::servers_of(&found).into_iter().filter(|server| *server != site.address).collect();
        let container = &mut found["spec"]["template"]["spec"]["containers"][0];
        let mut args = container["args"].as_array().cloned().unwrap_or_default();
        args.retain(|arg| !arg.as_str().is_some_and(|arg| arg.starts_with("--proxy-server-host=")));
        args.push(json!(format!("--proxy-server-host={}", servers.join(","))));
        container["args"] = json!(args);
        changes.extend(Change::of_applied(&site.cluster, found).await?);
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
