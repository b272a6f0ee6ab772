//! What a server knows of itself.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::Instant;
use tunnel::drain::Drain;
use tunnel::transport::Link;
use tunnel_kube::leases::Annotation;
use tunnel_kube::nodes::Nodes;
use tunnel_operate::certificate::Files;
use tunnel_operate::report::{Agents, MOST_MISSING, ServerStatus};
use tunnel_operate::summary;

use super::nodes::compare;
use crate::agents::Registry;
use crate::config::Config;
use crate::metrics::Metrics;

/// Looks at what there is already; keeps nothing up to date.
#[derive(Debug)]
pub(crate) struct Overview {
    server_id: String,
    certificates: Files,
    started: Instant,
    registry: Registry,
    metrics: Metrics,
    drain: Drain,
    /// Set once the Kubernetes API is asked for nodes.
    nodes: OnceLock<watch::Receiver<Nodes>>,
}

impl Overview {
    pub(crate) fn new(config: &Config, registry: &Registry, metrics: &Metrics, drain: &Drain) -> Arc<Self> {
        Arc::new(Self {
            server_id: config.server_id.clone(),
            certificates: config.certificates.clone(),
            started: Instant::now(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            drain: drain.clone(),
            nodes: OnceLock::new(),
        })
    }

    pub(crate) fn server_id(&self) -> &str {
        &self.server_id
    }

    /// Each of these nodes should have an agent. The first call holds.
    pub(crate) fn expect(&self, nodes: watch::Receiver<Nodes>) {
        let _ = self.nodes.set(nodes);
    }

    pub(crate) fn status(&self) -> ServerStatus {
        self.naming(MOST_MISSING)
    }

    /// The annotation of the server's Lease.
    pub(crate) fn annotation(self: &Arc<Self>) -> Annotation {
        let overview = Arc::clone(self);
        let value = move || summary::write(overview.naming(summary::MOST_MISSING));
        Annotation { key: summary::ANNOTATION, value: Arc::new(value) }
    }

    /// The status, with at most so many missing nodes by name.
    fn naming(&self, most: usize) -> ServerStatus {
        let view = self.registry.view();
        let tunnels = self.registry.tunnels();
        let mut agents = Agents { connected: view.agents().len(), ..Agents::default() };
        for tunnel in view.agents().iter().filter_map(|agent| agent.tunnel()) {
            match tunnel.link() {
                Link::Quic => agents.quic += 1,
                Link::H2 => agents.h2 += 1,
                Link::Konnectivity => agents.konnectivity += 1,
            }
        }
        agents.suspect = tunnels.iter().filter(|agent| agent.silent_since().is_some()).count();
        ServerStatus {
            id: self.server_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up: self.started.elapsed().as_secs(),
            draining: self.drain.has_started(),
            agents,
            nodes: self.nodes.get().map(|nodes| compare(&nodes.borrow(), &view, &self.registry, most)),
            streams: tunnels.iter().map(|agent| agent.streams()).sum(),
            stalled: self.metrics.stalled(),
            certificate: self.certificates.nearest(),
        }
    }
}
