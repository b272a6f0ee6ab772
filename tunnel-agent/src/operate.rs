//! The agent's answers to `status`, `probe` and `doctor`.

mod probe;
mod setup;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tunnel::drain::Drain;
use tunnel_operate::api::Answers;
use tunnel_operate::report::{AgentStatus, ProbeReport, ProbeRequest, Setup, Status};

use crate::config::Config;
use crate::dial::Permits;
use crate::fleet::{Description, Fleet};
use crate::metrics::Metrics;

/// Probes at once: they are for people, and each is a connection to a target.
const PROBES: usize = 4;

/// Answers on the admin socket.
pub(crate) struct Operating {
    config: Arc<Config>,
    fleet: Fleet,
    permits: Permits,
    metrics: Metrics,
    drain: Drain,
    started: Instant,
    probes: Semaphore,
}

impl Operating {
    pub(crate) fn new(
        config: &Arc<Config>,
        fleet: Fleet,
        metrics: &Metrics,
        drain: &Drain,
        started: Instant,
    ) -> Self {
        let permits = Permits::new(config, metrics);
        let (config, metrics, drain) = (Arc::clone(config), metrics.clone(), drain.clone());
        Self { config, fleet, permits, metrics, drain, started, probes: Semaphore::new(PROBES) }
    }
}

impl Answers for Operating {
    async fn status(&self) -> Status {
        let Description { wanted, servers, not_held, streams, .. } = self.fleet.describe().await;
        Status::Agent(AgentStatus {
            id: self.config.agent_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up: self.started.elapsed().as_secs(),
            draining: self.drain.has_started(),
            wanted,
            servers,
            not_held,
            streams,
            stalled: self.metrics.stalled(),
            certificate: self.config.certificates.nearest(),
        })
    }

    async fn setup(&self) -> Setup {
        let datagrams = self.fleet.describe().await.datagrams;
        Setup::Agent(setup::setup(&self.config, datagrams))
    }

    async fn probe(&self, request: ProbeRequest) -> ProbeReport {
        // Never closed.
        let _permit = self.probes.acquire().await;
        Box::pin(probe::probe(&self.config.agent_id, &self.permits, request)).await
    }
}
