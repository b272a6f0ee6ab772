//! The server's use of the Kubernetes API: reviews of agents' tokens, and a Lease that makes
//! agents count this server.

use std::sync::Arc;

use anyhow::Context as _;
use tunnel::drain::Drain;
use tunnel_kube::leases::{LeaseEvent, publish};
use tunnel_kube::review::ReviewEvent;
use tunnel_kube::{TokenReviewer, nodes};

use crate::agents::Authenticator;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::operate::Overview;

/// Publishes the Lease, if configured, until the drain begins, and makes the authenticator of
/// agents. Without tokens and Leases no API is needed.
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
    let cluster = config.kube.connect().await.context(
        "reviews of agents' tokens, Leases and --expected-nodes need the Kubernetes API (--kubeconfig, or a pod's service account)",
    )?;
    if let Some(selector) = &config.expected_nodes {
        overview.expect(nodes::follow(&cluster, selector, drain));
    }
    if let Some(publication) = config.leases.clone() {
        let (metrics, cluster, until) = (metrics.clone(), cluster.clone(), drain.clone());
        let annotation = overview.annotation();
        let observe = Arc::new(move |event: LeaseEvent| metrics.lease_event(&event));
        drain.spawn("lease", async move {
            publish(cluster, publication, annotation, observe, until.started()).await;
        });
    }
    let Some(expected) = config.tokens.clone() else { return Ok(Authenticator::Tls) };
    let metrics = metrics.clone();
    let observe = Arc::new(move |event: ReviewEvent| metrics.token_reviewed(&event));
    Ok(Authenticator::Tokens(TokenReviewer::new(&cluster, expected, observe)))
}
