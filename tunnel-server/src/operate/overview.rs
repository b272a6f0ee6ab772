//! A server's state at one moment, for commands and its Lease.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::Instant;
use tunnel::drain::Drain;
use tunnel::transport::Link;
use tunnel::transport::quic::Datagrams;
use tunnel_kube::leases::Annotation;
use tunnel_kube::nodes::Nodes;
use tunnel_operate::certificate::Files;
use tunnel_operate::report::{Agents, Connected, Datagram, MOST_AGENTS, MOST_MISSING, ServerStatus};
use tunnel_operate::summary;

use super::identities::report;
use super::nodes::compare;
use crate::agents::{Registry, Trust};
use crate::config::Config;
use crate::metrics::Metrics;

/// Reads the state of other parts; keeps none of its own.
#[derive(Debug)]
pub(crate) struct Overview {
    server_id: String,
    certificates: Files,
    datagrams: Datagrams,
    started: Instant,
    registry: Registry,
    trust: Trust,
    metrics: Metrics,
    drain: Drain,
    /// Set once the Kubernetes API is asked for nodes.
    nodes: OnceLock<watch::Receiver<Nodes>>,
}

impl Overview {
    pub(crate) fn new(
        config: &Config,
        registry: &Registry,
        trust: &Trust,
        metrics: &Metrics,
        drain: &Drain,
    ) -> Arc<Self> {
        Arc::new(Self {
            server_id: config.server_id.clone(),
            certificates: config.certificates.clone(),
            datagrams: config.datagrams,
            started: Instant::now(),
            registry: registry.clone(),
            trust: trust.clone(),
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

    /// Connected agents: at most [`MOST_AGENTS`].
    pub(crate) fn connected(&self) -> Vec<Connected> {
        let agents: Vec<_> = self.registry.view().agents().iter().take(MOST_AGENTS).cloned().collect();
        let connected = agents.iter().map(|agent| {
            let tunnel = agent.tunnel();
            let datagram = tunnel.and_then(|tunnel| {
                let most = self.datagrams.to(tunnel.remote().ip());
                Some(Datagram { now: tunnel.datagram()?, most })
            });
            let hosts = agent.routes().hosts().map(ToString::to_string).collect();
            Connected { id: agent.id.clone(), identity: agent.identity.to_string(), hosts, datagram }
        });
        connected.collect()
    }

    /// The annotation of the server's Lease.
    pub(crate) fn annotation(self: &Arc<Self>) -> Annotation {
        let overview = Arc::clone(self);
        let value = move || summary::write(overview.naming(summary::MOST_MISSING));
        Annotation { key: summary::ANNOTATION, value: Arc::new(value) }
    }

    /// The status, with at most so many missing nodes by name.
    fn naming(&self, most: usize) -> ServerStatus {
        let usable = self.registry.view().agents().to_vec();
        let tunnels = self.registry.tunnels();
        let mut agents = Agents { connected: usable.len(), ..Agents::default() };
        for tunnel in usable.iter().filter_map(|agent| agent.tunnel()) {
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
            nodes: self.nodes.get().map(|nodes| compare(&nodes.borrow(), &usable, &self.registry, most)),
            identities: Some(Box::new(report(&self.trust, &tunnels))),
            streams: tunnels.iter().map(|agent| agent.streams()).sum(),
            stalled: self.metrics.stalled(),
            certificate: self.certificates.nearest(),
        }
    }
}
