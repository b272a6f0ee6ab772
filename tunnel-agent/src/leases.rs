//! Counting servers by their Leases in the cluster, and the addresses in them.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::watch;
use tunnel_kube::leases::{Counted, Counting, LeaseEvent, count};
use tunnel_kube::{Access, AccessError};
use tunnel_operate::certificate::kubeconfig_ends;
use tunnel_program::renewal::Renewal;

use crate::config::LeaseCount;
use crate::metrics::Metrics;

/// Starts to count, until the drain starts. Cancel safe.
///
/// # Errors
/// When there are no usable credentials for the Kubernetes API.
pub(crate) async fn follow(
    leases: &LeaseCount,
    metrics: &Metrics,
    renewal: &Renewal,
) -> anyhow::Result<watch::Receiver<Option<Counted>>> {
    let access = Access { kubeconfig: leases.kubeconfig.clone(), ..Access::default() };
    let cluster = access.connect().await.context(
        "--count-server-leases needs the Kubernetes API (--kubeconfig, or a pod's service account)",
    )?;
    let (runtime, renewed) = (tokio::runtime::Handle::current(), cluster.clone());
    let expiry = renewal.clone();
    renewal.follow("kubeconfig", access.files(), move || {
        runtime.block_on(access.renew(&renewed))?;
        expiry.expires("kubeconfig", access.kubeconfig.as_deref().and_then(kubeconfig_ends));
        Ok::<_, AccessError>(())
    });
    let counting = Counting { namespace: leases.namespace.clone(), selector: leases.selector.clone() };
    let metrics = metrics.clone();
    let observe = Arc::new(move |event: LeaseEvent| metrics.lease_event(&event));
    Ok(count(&cluster, counting, observe, renewal.drain()))
}
