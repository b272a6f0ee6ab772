//! A tunnel to every server of the list, kept up for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use tunnel::backoff::Backoff;
use tunnel::drain::Drain;
use tunnel::transport::Link;

use crate::config::{Config, ServerAddr};
use crate::connect::{Connector, Established};
use crate::metrics::Metrics;
use crate::session::{Session, greet};

/// While on h2, QUIC is tried again this often (with `--transport=auto`).
const PROBE: Duration = Duration::from_secs(600);

/// A tunnel that lasted this long was a success: the next wait is short again.
const LASTED: Duration = Duration::from_secs(10);

/// What all servers' keepers share. Clones are the same fleet.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    config: Arc<Config>,
    metrics: Metrics,
    drain: Drain,
    /// Which list entry holds the tunnel to which server id: two entries may
    /// lead to one server, through a load balancer.
    held: Arc<Mutex<HashMap<String, ServerAddr>>>,
    sessions: TaskTracker,
}

/// Holds a server id, and counts as a connected server, until dropped.
struct Held {
    fleet: Fleet,
    server_id: String,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fleet.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.server_id);
        self.fleet.metrics.servers_connected.dec();
    }
}

impl Fleet {
    pub(crate) fn new(config: Arc<Config>, metrics: Metrics, drain: Drain) -> Self {
        Self { config, metrics, drain, held: Arc::default(), sessions: TaskTracker::new() }
    }

    /// Begins to keep tunnels to all servers.
    pub(crate) fn start(&self) {
        self.metrics.servers_wanted.set(i64::try_from(self.config.servers.len()).unwrap_or(i64::MAX));
        for server in &self.config.servers {
            let connector = Connector::new(
                server.clone(),
                self.config.transport,
                Arc::clone(&self.config.tls),
                self.metrics.clone(),
                self.drain.clone(),
            );
            self.drain.spawn("server keeper", self.clone().keep(connector));
        }
    }

    /// Servers to which a tunnel stands.
    pub(crate) fn connected(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Waits until all tunnels are over, which they are by themselves once the
    /// drain began and their last streams ended. Cancel safe.
    pub(crate) async fn all_ended(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }

    async fn keep(self, connector: Connector) {
        let mut backoff = Backoff::new(self.config.sync.interval, self.config.sync.cap);
        loop {
            let started = Instant::now();
            tokio::select! {
                biased;
                () = self.drain.started() => return,
                () = self.connect_and_stay(&connector) => {}
            }
            if started.elapsed() >= LASTED {
                backoff.reset();
            }
            tokio::select! {
                biased;
                () = self.drain.started() => return,
                () = sleep(backoff.next_wait()) => {}
            }
        }
    }

    /// Returns when there is no tunnel to this server any more.
    async fn connect_and_stay(&self, connector: &Connector) {
        let mut next = match connector.connect().await {
            Ok(established) => Some(established),
            Err(error) => {
                warn!(server = %connector.server, %error, "cannot reach the server");
                None
            }
        };
        while let Some(established) = next.take() {
            next = self.stay(connector, established).await;
        }
    }

    /// Uses one tunnel until it ends, or until a better one is there, which is
    /// then returned.
    async fn stay(&self, connector: &Connector, (tunnel, control): Established) -> Option<Established> {
        let (server, link) = (&connector.server, tunnel.link());
        let (messages, welcome) = match greet(control, &self.config.agent_id, &self.config.identifiers).await
        {
            Ok(greeted) => greeted,
            Err(error) => {
                warn!(%server, link = link.label(), %error, "the server does not take us");
                tunnel.close("greeting failed");
                return None;
            }
        };
        let Some(held) = self.hold(&welcome.server_id, server) else {
            info!(%server, id = welcome.server_id, "there is a tunnel to this server already");
            tunnel.close("duplicate");
            return None;
        };
        info!(%server, id = welcome.server_id, link = link.label(), software = welcome.software, "connected");
        let session = Session::start(tunnel, messages, &self.sessions, &self.metrics, &self.drain);
        let better = tokio::select! {
            () = session.ended() => None,
            better = Self::better(connector, link) => Some(better),
        };
        match &better {
            Some(_) => {
                info!(%server, "moving from h2 to quic");
                session.retire();
            }
            None => warn!(%server, id = welcome.server_id, link = link.label(), "disconnected"),
        }
        drop(held);
        better
    }

    fn hold(&self, server_id: &str, server: &ServerAddr) -> Option<Held> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains_key(server_id) {
            return None;
        }
        held.insert(server_id.to_owned(), server.clone());
        self.metrics.servers_connected.inc();
        Some(Held { fleet: self.clone(), server_id: server_id.to_owned() })
    }

    /// A tunnel on QUIC, once one can be had, for an agent that had to fall
    /// back to h2. Never ready for others.
    async fn better(connector: &Connector, link: Link) -> Established {
        if link != Link::H2 || !connector.prefers_quic() {
            return std::future::pending().await;
        }
        loop {
            sleep(PROBE).await;
            if let Ok(established) = connector.attempt(Link::Quic).await {
                return established;
            }
        }
    }
}
