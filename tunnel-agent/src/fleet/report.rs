//! Reports of attempts, look-ups and sessions to the fleet's task.

use std::net::SocketAddr;

use tokio::sync::oneshot;
use tunnel::transport::Greeted;

use super::describe::Description;
use super::plan::Purpose;
use crate::config::ServerAddr;
use crate::connect::ConnectError;
use crate::session::SessionEvent;
use crate::way::Way;

/// One report.
#[derive(Debug)]
pub(super) enum Report {
    /// A name was resolved, or why not.
    Resolved(ServerAddr, Result<Vec<SocketAddr>, String>),
    /// An attempt is over; `None` if its task vanished.
    Attempted(Way, Purpose, Option<Result<Box<Greeted>, ConnectError>>),
    /// Somebody wants to know how the fleet is.
    Describe(oneshot::Sender<Description>),
    /// Something became of a session.
    Session(SessionEvent),
}

impl From<SessionEvent> for Report {
    fn from(event: SessionEvent) -> Self {
        Self::Session(event)
    }
}
