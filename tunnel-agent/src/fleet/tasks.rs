//! The tasks that resolve names and dial servers for the fleet, and report to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tunnel::drain::Drain;

use super::plan::{Attempt, Purpose};
use super::report::{Report, Servers};
use crate::config::ServerAddr;
use crate::connect::Connector;
use crate::course::Course;

/// Time limit of a resolver. Shorter than the system's default of 5 s for each of its tries,
/// and one lost packet fails the lookup; longer, and a name that moved is followed late.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Resolves a host name and a port.
pub type Lookup = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync,
>;

/// The parts that the tasks need.
pub(super) struct Tasks {
    pub(super) connector: Arc<Connector>,
    /// The resolver; the system's if `None`.
    pub(super) lookup: Option<Lookup>,
    pub(super) servers: watch::Receiver<Servers>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) drain: Drain,
}

impl Tasks {
    /// Resolves a name. A name behind a proxy is one endpoint, without an address.
    pub(super) fn resolve(&self, server: ServerAddr) {
        let (host, port) = (server.host.clone(), server.port);
        let (lookup, is_proxied) = (self.lookup.clone(), self.connector.is_proxied(&host, port));
        let lookup = async move {
            match lookup {
                _ if is_proxied => Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]),
                Some(lookup) => lookup(host, port).await,
                None => Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()),
            }
        };
        let (reports, drain) = (self.reports.clone(), self.drain.clone());
        self.drain.spawn("lookup", async move {
            let result = tokio::select! {
                biased;
                () = drain.started() => return,
                result = timeout(LOOKUP_LIMIT, lookup) => result,
            };
            let result = match result {
                Ok(Ok(addrs)) if addrs.is_empty() => Err("no address".to_owned()),
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("timed out".to_owned()),
            };
            // Fails only when the fleet has ended.
            let _ = reports.send(Report::Resolved(server, result)).await;
        });
    }

    /// Makes an attempt.
    pub(super) fn dial(&self, attempt: Attempt, course: Course) {
        let mut unreported = Unreported { attempt: Some(attempt.clone()), reports: self.reports.clone() };
        let (connector, servers, drain) =
            (Arc::clone(&self.connector), self.servers.clone(), self.drain.clone());
        self.drain.spawn("attempt", async move {
            // A tunnel that is replaced is no duplicate.
            let replaced = attempt.purpose.replaced();
            let upgrades = matches!(attempt.purpose, Purpose::Upgrade(_));
            let held = || {
                let ids = &servers.borrow().connected;
                ids.iter().filter(|id| Some(*id) != replaced).cloned().collect()
            };
            let tried = tokio::select! {
                biased;
                () = drain.started() => return,
                tried = connector.connect(&attempt.endpoint, course, upgrades, held) => tried,
            };
            unreported.attempt = None;
            let report = Report::Attempted(attempt, Some(tried));
            let _ = unreported.reports.send(report).await;
        });
    }
}

/// An attempt in flight. Its end is reported also when its task panics.
struct Unreported {
    attempt: Option<Attempt>,
    reports: mpsc::Sender<Report>,
}

impl Drop for Unreported {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            let _ = self.reports.try_send(Report::Attempted(attempt, None));
        }
    }
}
