//! The switch of the kube-apiserver to another manifest, and the way back.
//!
//! A marker file stands from before the first change until the new pod is known to work, so
//! that an interrupted switch is completed or taken back by the next run.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tunnel_operate::progress::Progress;

use crate::apiserver::{ApiServer, EGRESS_FLAG};
use crate::cluster::{ApiServerPod, Cluster};
use crate::fault::Fault;
use crate::host::{APISERVER, DIRECTORY, Host, backup_of};
use crate::say::say;

/// Stands while the kube-apiserver is being switched.
const MARKER: &str = "/etc/kubernetes/tunnel/switching";

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Limit of the wait for the pod of a node that has just joined: its kubelet makes it within seconds.
/// A node that is none of the cluster's is refused so much later.
const APPEARS: Duration = Duration::from_secs(60);

/// Mode of kubeadm's manifests.
pub(crate) const MODE: u32 = 0o600;

/// A manifest of the kube-apiserver, and its text.
pub(crate) struct Manifest {
    pub(crate) pod: ApiServer,
    pub(crate) text: String,
}

impl Manifest {
    /// In the text of the backup if that is this pod: then an installation leaves no trace.
    ///
    /// # Errors
    /// When the backup cannot be read.
    pub(crate) fn new(host: &Host, pod: ApiServer) -> Result<Self, Fault> {
        let backup = backup_of(APISERVER);
        let text =
            host.read(&backup)?.filter(|text| ApiServer::parse(&backup, text).is_ok_and(|old| old == pod));
        let text = text.unwrap_or_else(|| pod.render());
        Ok(Self { pod, text })
    }
}

/// Replaces the kube-apiserver's manifest, waits for the new pod, and puts the old manifest
/// back if the pod does not become ready within `limit` or `verify` fails.
///
/// # Errors
/// When the old manifest was put back, with the reason, or when that failed as well.
pub(crate) async fn switch(
    host: &Host,
    cluster: &Cluster,
    manifest: &Manifest,
    limit: Duration,
    verify: impl Future<Output = Result<(), Fault>>,
) -> Result<(), Fault> {
    let old = read(host)?;
    let hash = own(cluster, &old).await?.hash;
    let text = host.read(APISERVER)?.unwrap_or_else(|| old.render());
    host.write(&backup_of(APISERVER), &text, MODE)?;
    host.write(MARKER, "", MODE)?;
    host.write(APISERVER, &manifest.text, MODE)?;
    say(&format!("wrote    {APISERVER}"));
    let switched = async {
        wait(cluster, &manifest.pod, hash.as_deref(), limit).await?;
        verify.await
    };
    match Box::pin(switched).await {
        Ok(()) => finish(host),
        Err(fault) => Err(roll_back(host, cluster, limit).await.map_or_else(
            |worse| worse,
            |()| fault.and("the kube-apiserver runs with its old manifest again"),
        )),
    }
}

/// Completes a switch that was interrupted: waits for the kube-apiserver, and puts its old
/// manifest back if it does not become ready within `limit`.
///
/// # Errors
/// When the old manifest was put back, or that failed.
pub(crate) async fn recover(host: &Host, cluster: &Cluster, limit: Duration) -> Result<(), Fault> {
    if host.read(MARKER)?.is_none() {
        return Ok(());
    }
    say("an earlier switch of the kube-apiserver was interrupted");
    match wait(cluster, &read(host)?, None, limit).await {
        Ok(()) => finish(host),
        Err(fault) => {
            roll_back(host, cluster, limit).await?;
            Err(fault.and("the kube-apiserver runs with its old manifest again"))
        }
    }
}

fn finish(host: &Host) -> Result<(), Fault> {
    host.remove(MARKER)
}

async fn roll_back(host: &Host, cluster: &Cluster, limit: Duration) -> Result<(), Fault> {
    let backup = backup_of(APISERVER);
    let by_hand = |fault: Fault| {
        fault.and(&format!("and the old manifest could not be put back: cp {backup} {APISERVER}"))
    };
    say("rolling back the kube-apiserver's manifest");
    let text = host.read(&backup).map_err(by_hand)?;
    let text =
        text.ok_or_else(|| by_hand(Fault::new(format!("{backup} is gone"), format!("restore {APISERVER}"))))?;
    let old = ApiServer::parse(&backup, &text).map_err(by_hand)?;
    host.write(APISERVER, &text, MODE).map_err(by_hand)?;
    wait(cluster, &old, None, limit).await.map_err(by_hand)?;
    finish(host)
}

/// The manifest of this node's kube-apiserver.
///
/// # Errors
/// When there is none, or it is another program's.
pub(crate) fn read(host: &Host) -> Result<ApiServer, Fault> {
    let text = host.read(APISERVER)?.ok_or_else(|| {
        Fault::new(
            format!("there is no {APISERVER}: this is no control plane node of kubeadm"),
            "run this as root on a control plane node, or use the Helm chart; before kubeadm join --control-plane \
             add --before-join",
        )
    })?;
    ApiServer::parse(APISERVER, &text)
}

/// The pod of this node's kube-apiserver.
///
/// # Errors
/// When the cluster does not know it.
pub(crate) async fn own(cluster: &Cluster, manifest: &ApiServer) -> Result<ApiServerPod, Fault> {
    let pods = cluster.apiservers().await?;
    let mine = pods.into_iter().find(|pod| pod.endpoint.as_deref() == manifest.endpoint());
    mine.ok_or_else(|| {
        Fault::new(
            format!("no kube-apiserver's pod has the endpoint {:?} of {APISERVER}", manifest.endpoint()),
            "kubectl -n kube-system get pods -l component=kube-apiserver",
        )
    })
}

/// The same of a node that may have joined a moment ago.
///
/// # Errors
/// When the cluster does not know it after a minute.
pub(crate) async fn own_soon(cluster: &Cluster, manifest: &ApiServer) -> Result<ApiServerPod, Fault> {
    let (began, mut progress) = (Instant::now(), Progress::begin());
    loop {
        match own(cluster, manifest).await {
            Err(_) if began.elapsed() < APPEARS => {
                progress.during("waiting for the pod of this node's kube-apiserver", sleep(LOOK)).await;
            }
            found => return found,
        }
    }
}

/// Waits for a ready pod with the manifest's egress flag and another hash than `old`.
async fn wait(
    cluster: &Cluster,
    manifest: &ApiServer,
    old: Option<&str>,
    limit: Duration,
) -> Result<(), Fault> {
    let (began, mut progress) = (Instant::now(), Progress::begin());
    let mut last;
    loop {
        last = match own(cluster, manifest).await {
            Ok(pod) if !pod.pod.ready => "its pod is not ready".to_owned(),
            Ok(pod) if old.is_some() && pod.hash.as_deref() == old => {
                "its pod is still the old one".to_owned()
            }
            Ok(pod) if pod.flag(EGRESS_FLAG) != manifest.flag(EGRESS_FLAG) => {
                "its pod is still the one before".to_owned()
            }
            Ok(_) => break,
            Err(fault) => fault.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        if began.elapsed() >= limit {
            return Err(Fault::new(
                format!("the kube-apiserver did not come back within {} s: {last}", limit.as_secs()),
                "crictl ps -a --name kube-apiserver, and crictl logs of the newest; backups are in "
                    .to_owned()
                    + DIRECTORY,
            ));
        }
        progress.during(&format!("waiting for the kube-apiserver: {last}"), sleep(LOOK)).await;
    }
    say(&format!("ready    the kube-apiserver's new pod, after {} s", began.elapsed().as_secs()));
    Ok(())
}
