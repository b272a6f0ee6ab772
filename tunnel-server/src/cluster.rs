//! The server's use of the Kubernetes API: reviews of agents' tokens, and a Lease that makes
//! agents count this server. Node objects are watched for routes and proofs, and for `status`.

use std::sync::Arc;

use anyhow::Context as _;
use tunnel_kube::leases::{LeaseEvent, publish};
use tunnel_kube::review::ReviewEvent;
use tunnel_kube::{TokenReviewer, nodes};
use tunnel_program::renewal::Renewal;

use crate::agents::{Authenticator, Registry, Source, Trust};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::operate::Overview;
use crate::renew;

/// Publishes the Lease, if configured, until the drain begins, and makes the authenticator of
/// agents. Without tokens and Leases no API is needed.
///
/// # Errors
/// When the credentials for the API are missing or not usable.
pub(crate) async fn join(
    config: &Config,
    metrics: &Metrics,
    overview: &Arc<Overview>,
    registry: &Registry,
    trust: &Trust,
    renewal: &Renewal,
) -> anyhow::Result<Authenticator> {
    let drain = renewal.drain();
    let by_nodes = trust.source() == Source::Nodes;
    let watches = by_nodes || config.expected_nodes.is_some();
    if config.tokens.is_none() && config.leases.is_none() && !watches {
        return Ok(Authenticator::Tls);
    }
    let cluster = config.kube.connect().await.context(
        "reviews of agents' tokens, Leases, --routes-from=nodes and --expected-nodes need the Kubernetes API (--kubeconfig, or a pod's service account)",
    )?;
    renew::follow_kubeconfig(renewal, config, &cluster);
    if let Some(selector) = &config.expected_nodes {
        let expected = nodes::follow(&cluster, selector, drain);
        if !by_nodes {
            registry.follow(trust, expected.clone(), drain);
        }
        overview.expect(expected);
    }
    if by_nodes {
        // All of them: an address of a node that needs no agent is still that node's.
        registry.follow(trust, nodes::follow(&cluster, "", drain), drain);
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
