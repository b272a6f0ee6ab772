//! The tasks that work for the fleet, and report.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tunnel::drain::Drain;

use super::plan::Purpose;
use super::report::Report;
use super::standing::Servers;
use crate::config::ServerAddr;
use crate::connect::{Choice, Connector, Held};
use crate::proxy::Proxies;

use crate::endpoint::Endpoint;

/// How long a resolver may take.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);

/// Resolves a host name and a port.
pub type Lookup = Arc<
    dyn Fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync,
>;

/// The resolver of the system.
pub(super) fn system_lookup() -> Lookup {
    Arc::new(|host, port| {
        Box::pin(async move { Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect()) })
    })
}

/// Leaves the names of servers behind a proxy to the proxy: where there is one,
/// names may well mean nothing here. Such a name is one endpoint, without an address.
pub(super) fn past_proxies(lookup: Lookup, proxies: Proxies) -> Lookup {
    Arc::new(move |host, port| match proxies.to(&host, port) {
        Some(_) => Box::pin(async move { Ok(vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))]) }),
        None => lookup(host, port),
    })
}

/// What the tasks need.
pub(super) struct Tasks {
    pub(super) connector: Arc<Connector>,
    pub(super) lookup: Lookup,
    pub(super) servers: watch::Receiver<Servers>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) drain: Drain,
}

impl Tasks {
    /// Resolves a name.
    pub(super) fn resolve(&self, server: ServerAddr) {
        let lookup = (self.lookup)(server.host.clone(), server.port);
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

    /// Dials an endpoint.
    pub(super) fn dial(&self, endpoint: Endpoint, purpose: Purpose) {
        let mut attempt = Attempt { endpoint, purpose, reports: self.reports.clone(), reported: false };
        let (connector, servers, drain) =
            (Arc::clone(&self.connector), self.servers.clone(), self.drain.clone());
        self.drain.spawn("attempt", async move {
            let (choice, except) = match &attempt.purpose {
                Purpose::Need | Purpose::Search => (Choice::Any, None),
                // That tunnel is to be replaced, which is no duplicate.
                Purpose::Upgrade(id) => (Choice::Quic, Some(id.clone())),
            };
            let connected: Held = Box::new(move || {
                let ids = &servers.borrow().ids;
                ids.iter().filter(|id| Some(*id) != except.as_ref()).cloned().collect()
            });
            let result = tokio::select! {
                biased;
                () = drain.started() => return,
                result = connector.connect(&attempt.endpoint, choice, &connected) => result,
            };
            attempt.reported = true;
            let report = Report::Attempted(
                attempt.endpoint.clone(),
                attempt.purpose.clone(),
                Some(result.map(Box::new)),
            );
            let _ = attempt.reports.send(report).await;
        });
    }
}

/// An attempt under way. Should its task panic, the endpoint is free again.
struct Attempt {
    endpoint: Endpoint,
    purpose: Purpose,
    reports: mpsc::Sender<Report>,
    reported: bool,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.reported {
            let _ =
                self.reports.try_send(Report::Attempted(self.endpoint.clone(), self.purpose.clone(), None));
        }
    }
}
