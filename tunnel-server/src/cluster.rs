//! What the server wants of the Kubernetes API: that it reviews tokens, and
//! that it keeps a Lease which says that this server is there.

use std::sync::Arc;

use anyhow::Context as _;
use tunnel::drain::Drain;
use tunnel_kube::leases::{LeaseEvent, Publication, publish};
use tunnel_kube::review::ReviewEvent;
use tunnel_kube::{Access, Cluster, Expected, TokenReviewer, nodes};

use crate::agents::Authenticator;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::operate::Overview;

/// Begins what the configuration asks of the API, and returns who is taken for
/// an agent. The Lease is deleted when the drain begins. Whoever asks nothing of
/// the API needs none.
///
/// # Errors
/// When the credentials for the API are missing or not usable.
pub(crate) async fn join(
    config: &Config,
    metrics: &Metrics,
    overview: &Arc<Overview>,
    drain: &Drain,
) -> anyhow::Result<Authenticator> {
    if config.tokens.is_none() && config.leases.is_none() && config.expected_nodes.is_none() {
        return Ok(Authenticator::Tls);
    }
    let access =
        Access { kubeconfig: config.kube.kubeconfig.clone(), qps: config.kube.qps, burst: config.kube.burst };
    let cluster = access.connect().await.context(
        "reviews of agents' tokens, Leases and --expected-nodes need the Kubernetes API (--kubeconfig, or a pod's service account)",
    )?;
    if let Some(selector) = &config.expected_nodes {
        overview.expect(nodes::follow(&cluster, selector, drain));
    }
    publish_lease(config, &cluster, metrics, overview, drain);
    Ok(authenticator(config, &cluster, metrics))
}

fn authenticator(config: &Config, cluster: &Cluster, metrics: &Metrics) -> Authenticator {
    let Some(tokens) = &config.tokens else { return Authenticator::Tls };
    let expected = Expected {
        audience: tokens.audience.clone(),
        namespace: tokens.namespace.clone(),
        service_account: tokens.service_account.clone(),
    };
    let metrics = metrics.clone();
    let observe = Arc::new(move |event: ReviewEvent| metrics.token_reviewed(&event));
    Authenticator::Tokens(TokenReviewer::new(cluster, expected, observe))
}

fn publish_lease(
    config: &Config,
    cluster: &Cluster,
    metrics: &Metrics,
    overview: &Arc<Overview>,
    drain: &Drain,
) {
    let Some(leases) = &config.leases else { return };
    let publication = Publication {
        server_id: config.server_id.clone(),
        namespace: leases.namespace.clone(),
        labels: leases.labels.clone(),
        annotation: Some(overview.annotation()),
    };
    let metrics = metrics.clone();
    let observe = Arc::new(move |event: LeaseEvent| metrics.lease_event(&event));
    let (cluster, until) = (cluster.clone(), drain.clone());
    drain.spawn("lease", async move {
        publish(cluster, publication, observe, until.started()).await;
    });
}
