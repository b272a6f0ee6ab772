//! Values that the fleet's task exchanges with other tasks.

use std::net::SocketAddr;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tunnel::liveness::Health;

use super::describe::Description;
use super::plan::Attempt;
use crate::config::ServerAddr;
use crate::connect::Tried;

/// A report to the fleet's task.
#[derive(Debug)]
pub(super) enum Report {
    /// The addresses of a name, or the resolver's error.
    Resolved(ServerAddr, Result<Vec<SocketAddr>, String>),
    /// The outcome of an attempt; `None` if its task ended without one.
    Attempted(Attempt, Option<Tried>),
    /// An event of a session, which [`Health::Dead`] ends.
    Session { serial: u64, server_id: String, health: Health },
    /// A request for a description of the fleet.
    Describe(oneshot::Sender<Description>),
}

/// The servers, for metrics, readiness and greetings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Ids of the servers to which there is a tunnel.
    pub(crate) connected: Vec<String>,
    /// Number of servers to which there should be one.
    pub(crate) wanted: usize,
    /// Why none is connected: the last failure, if there was one.
    pub(crate) failure: Option<String>,
    /// Since when none is connected.
    pub(crate) alone: Option<Instant>,
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = self.connected.len();
        // After a scale-down, more are connected than wanted.
        write!(f, "{connected} of {} servers", self.wanted.max(connected))
    }
}
