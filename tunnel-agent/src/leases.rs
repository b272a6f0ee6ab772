//! Counting servers by their Leases in the cluster.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tunnel::drain::Drain;
use tunnel_kube::Access;
use tunnel_kube::leases::{Counting, LeaseEvent, count};

use crate::config::LeaseCount;
use crate::metrics::Metrics;

/// Starts to count, until the drain starts. Cancel safe.
///
/// # Errors
/// When there are no usable credentials for the Kubernetes API.
pub(crate) async fn follow(
    leases: &LeaseCount,
    metrics: &Metrics,
    drain: &Drain,
) -> anyhow::Result<watch::Receiver<Option<u32>>> {
    let access = Access { kubeconfig: leases.kubeconfig.clone(), ..Access::default() };
    let cluster = access.connect().await.context(
        "--count-server-leases needs the Kubernetes API (--kubeconfig, or a pod's service account)",
    )?;
    let counting = Counting { namespace: leases.namespace.clone(), selector: leases.selector.clone() };
    let metrics = metrics.clone();
    let observe = Arc::new(move |event: LeaseEvent| metrics.lease_event(&event));
    Ok(count(&cluster, counting, observe, drain))
}
