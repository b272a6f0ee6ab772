//! The move of a cluster from Konnectivity, and back: other images in the static pod of its
//! server and in its agents. Ports, tokens, flags and the kube-apiserver stay as they are.

mod agents;
mod server;

use std::path::Path;

use tokio::time::Instant;
use tunnel_operate::Program;
use tunnel_operate::client::Client;

use crate::CommonArgs;
use crate::activation::MODE;
use crate::fault::Fault;
use crate::host::{DIRECTORY, MANIFESTS, backup_of};
use crate::manifests::Images;
use crate::plan::Change;
use crate::ready::{Agents, wait_for_nodes, wait_for_rollouts};
use crate::say::{confirm, say};
use crate::site::Site;
use crate::uninstall::wait_for_end;
use crate::verify::{self, verify};

/// Has the name of the server's manifest while its images are ours.
const MARKER: &str = "/etc/kubernetes/tunnel/konnectivity";

/// Moves this node's server, then the agents, which both work with servers of either kind.
///
/// # Errors
/// When Konnectivity is not found, or a step failed. The next run goes on from there.
pub(crate) async fn install(
    site: &Site,
    egress: &str,
    images: &Images,
    args: &CommonArgs,
) -> Result<(), Fault> {
    let found = server::find(&site.host, egress)?;
    say(&format!("ok       Konnectivity's server is {}", found.name));
    let before = site.host.read(&found.name)?;
    let moved = found.moved(images)?;
    let server = Change::of_file(&site.host, &found.name, Some(&moved), MODE)?;
    let agents = agents::find(&site.cluster).await?;
    let mut changes = Vec::new();
    for agent in &agents {
        changes.extend(agent.moved(&site.cluster, images).await?);
    }
    for change in server.iter().chain(&changes) {
        say(&change.show());
    }
    if !go_on(args, server.is_some() || !changes.is_empty())? {
        return Ok(());
    }
    let began = Instant::now();
    if let Some(change) = &server {
        if site.host.read(MARKER)?.is_none() {
            site.host.write(&backup_of(&found.name), before.as_deref().unwrap_or_default(), MODE)?;
            site.host.write(MARKER, &found.name, MODE)?;
        }
        change.make(&site.host, &site.cluster).await?;
    }
    for change in &changes {
        change.make(&site.host, &site.cluster).await?;
    }
    let socket = Client::new(Path::new(Program::Server.socket()));
    let awaited = Agents { workloads: agents.iter().map(agents::Found::workload).collect(), listed: false };
    let restarted = server.is_some().then_some(began);
    wait_for_nodes(&site.cluster, &socket, &awaited, restarted, args.timeout).await?;
    for agent in &agents {
        verify(&site.local, &agent.namespace, &agent.selector, verify::Program::Ours).await?;
    }
    say(
        "Konnectivity's place is taken.\n  next: tunnel-server status; tunnel-server uninstall kubeadm puts Konnectivity back",
    );
    Ok(())
}

/// The manifest whose images were changed, if that was done on this node.
pub(crate) fn is_moved(site: &Site) -> Result<Option<String>, Fault> {
    let marker = site.host.read(MARKER)?;
    Ok(marker.map(|name| name.trim().to_owned()).filter(|name| name.starts_with(MANIFESTS)))
}

/// Puts Konnectivity back: agents first, then this node's server, and waits for both. The
/// backup stays until they work.
///
/// # Errors
/// When a step failed. The next run goes on from there.
pub(crate) async fn uninstall(site: &Site, manifest: &str, args: &CommonArgs) -> Result<(), Fault> {
    let backup = backup_of(manifest);
    let text = site.host.read(&backup)?.ok_or_else(|| {
        Fault::new(
            format!("{backup}, the manifest of Konnectivity's server, is gone"),
            format!("restore {manifest}"),
        )
    })?;
    let mut changes = Vec::new();
    let agents = agents::find(&site.cluster).await?;
    for agent in &agents {
        changes.extend(agent.put_back(&site.cluster).await?);
    }
    changes.extend(Change::of_file(&site.host, manifest, Some(&text), MODE)?);
    for change in &changes {
        say(&change.show());
    }
    if !go_on(args, true)? {
        return Ok(());
    }
    for change in &changes {
        change.make(&site.host, &site.cluster).await?;
    }
    let workloads: Vec<_> = agents.iter().map(agents::Found::workload).collect();
    wait_for_rollouts(&site.cluster, &workloads, args.timeout).await?;
    wait_for_end().await?;
    for agent in &agents {
        let program = verify::Program::Konnectivity;
        verify(&site.local, &agent.namespace, &agent.selector, program).await?;
    }
    site.host.remove_directory(DIRECTORY)?;
    say("Konnectivity is back.");
    Ok(())
}

/// Whether the changes are to be made.
fn go_on(args: &CommonArgs, any: bool) -> Result<bool, Fault> {
    if args.dry_run {
        say("nothing was changed: --dry-run");
        return Ok(false);
    }
    if any && !args.yes {
        confirm("make these changes?")?;
    }
    Ok(true)
}
