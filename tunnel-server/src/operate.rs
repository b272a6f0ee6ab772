//! The server's answers to `status` and `probe`, and its status in its Lease.

mod nodes;
mod overview;
mod probe;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tunnel_operate::api::Answers;
use tunnel_operate::report::{ProbeReport, ProbeRequest, Status};

use crate::dial::Dialer;

pub(crate) use overview::Overview;

/// Probes at once: they are for people, and each is a connection to a target.
const PROBES: usize = 4;

/// What answers on the admin socket.
pub(crate) struct Operating {
    overview: Arc<Overview>,
    dialer: Dialer,
    probes: Semaphore,
}

impl Operating {
    pub(crate) const fn new(overview: Arc<Overview>, dialer: Dialer) -> Self {
        Self { overview, dialer, probes: Semaphore::const_new(PROBES) }
    }
}

impl Answers for Operating {
    async fn status(&self) -> Status {
        Status::Server(self.overview.status())
    }

    async fn probe(&self, request: ProbeRequest) -> ProbeReport {
        // Never closed.
        let _permit = self.probes.acquire().await;
        Box::pin(probe::probe(&self.dialer, self.overview.server_id(), request)).await
    }
}
