//! The server's answers to `status`, `probe` and `doctor`, and its status in its Lease.

mod identities;
mod nodes;
mod overview;
mod probe;
mod setup;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tunnel_operate::api::Answers;
use tunnel_operate::certificate::Files;
use tunnel_operate::report::{ProbeReport, ProbeRequest, ServerSetup, Setup, Status};

use crate::config::Config;
use crate::dial::Dialer;

pub(crate) use overview::Overview;

/// Probes at once: they are for people, and each is a connection to a target.
const PROBES: usize = 4;

/// Answers on the admin socket.
pub(crate) struct Operating {
    overview: Arc<Overview>,
    dialer: Dialer,
    /// The settings, without agents and certificates.
    setup: ServerSetup,
    certificates: Files,
    probes: Semaphore,
}

impl Operating {
    pub(crate) fn new(overview: Arc<Overview>, dialer: Dialer, config: &Config, agents: SocketAddr) -> Self {
        let setup = setup::settings(config, agents);
        let certificates = config.certificates.clone();
        Self { overview, dialer, setup, certificates, probes: Semaphore::const_new(PROBES) }
    }
}

impl Answers for Operating {
    async fn status(&self) -> Status {
        Status::Server(self.overview.status())
    }

    async fn setup(&self) -> Setup {
        let (connected, certificates) = (self.overview.connected(), self.certificates.all());
        Setup::Server(ServerSetup { connected, certificates, ..self.setup.clone() })
    }

    async fn probe(&self, request: ProbeRequest) -> ProbeReport {
        // Never closed.
        let _permit = self.probes.acquire().await;
        Box::pin(probe::probe(&self.dialer, self.overview.server_id(), request)).await
    }
}
