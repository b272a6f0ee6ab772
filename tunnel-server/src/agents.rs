//! The agents that have a tunnel to this server.

mod arrivals;
mod authenticator;
mod credential;
mod departed;
mod follow;
mod identity;
mod registry;
mod routes;
mod session;
mod tokens;
mod trust;
mod turned_away;
mod turns;
mod twins;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use tunnel::liveness::Peer;
use tunnel::streams::{StreamGuard, Streams};
use tunnel::transport::Tunnel;
use tunnel_proto::ident::Identifiers;

pub(crate) use arrivals::{accept_quic, accept_tcp};
pub(crate) use authenticator::Authenticator;
use credential::Credential;
pub(crate) use departed::LastSign;
pub(crate) use identity::{Identity, IdentityMap, Template, text_of_host, texts_of_certificate};
pub use registry::{Registration, Registry};
pub(crate) use routes::{Routes, shown};
pub(crate) use session::{Limits, Sessions};
pub(crate) use trust::{Mode, Rules, Source, Trust};

/// One tunnel of an agent.
#[derive(Debug)]
pub struct AgentTunnel {
    /// The agent's id. Several tunnels may have the same one.
    pub(crate) id: String,
    /// Made from the agent's credential.
    pub(crate) identity: Identity,
    credential: Credential,
    /// The targets that the agent says it serves.
    pub(crate) claims: Arc<Identifiers>,
    /// The targets for which it gets dials. They change with the node's object.
    routes: ArcSwap<Routes>,
    /// Whether it gets dials after the agent's other tunnels, by its own word.
    on_trial: bool,
    /// `None` in tests of routing.
    connected: Option<Connected>,
    streams: Arc<Streams>,
    draining: AtomicBool,
    /// The time of the agent's last sign of life, while it is suspect.
    suspect: watch::Sender<Option<Instant>>,
    /// Set once a dial has found the tunnel over, before its session has.
    lost: AtomicBool,
    /// The reason of the tunnel's end, once its session knows it.
    why_ended: OnceLock<String>,
}

/// An agent that the server admits.
#[derive(Debug)]
struct Admitted {
    id: String,
    identity: Identity,
    credential: Credential,
    claims: Arc<Identifiers>,
    routes: Routes,
    on_trial: bool,
}

#[derive(Debug)]
struct Connected {
    tunnel: Tunnel,
    peer: Peer,
}

impl AgentTunnel {
    /// An established tunnel. `streams` counts its streams.
    fn new(agent: Admitted, tunnel: Tunnel, peer: Peer, streams: Arc<Streams>) -> Self {
        let Admitted { id, identity, credential, claims, routes, on_trial } = agent;
        let (connected, routes) = (Some(Connected { tunnel, peer }), ArcSwap::from_pointee(routes));
        Self { connected, streams, identity, credential, routes, on_trial, ..Self::of(id, claims) }
    }

    /// An agent without a tunnel, for tests and guards of routing. A dial of it fails.
    pub fn detached(id: impl Into<String>, identifiers: Identifiers) -> Self {
        Self::of(id.into(), Arc::new(identifiers))
    }

    /// As [`AgentTunnel::detached`], with these routes.
    #[cfg(test)]
    pub(crate) fn routed(id: &str, routes: Routes) -> Self {
        Self { routes: ArcSwap::from_pointee(routes), ..Self::of(id.to_owned(), Arc::default()) }
    }

    fn of(id: String, claims: Arc<Identifiers>) -> Self {
        Self {
            id,
            identity: Identity::Unknown,
            credential: Credential::new(Arc::new([]), None),
            routes: ArcSwap::from_pointee(Routes::as_claimed(Arc::clone(&claims))),
            claims,
            on_trial: false,
            connected: None,
            streams: Arc::default(),
            draining: AtomicBool::new(false),
            suspect: watch::Sender::new(None),
            lost: AtomicBool::new(false),
            why_ended: OnceLock::new(),
        }
    }

    /// The targets for which the tunnel gets dials.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    pub(crate) fn tunnel(&self) -> Option<&Tunnel> {
        self.connected.as_ref().map(|connected| &connected.tunnel)
    }

    /// As [`Tunnel::is_stuck`].
    pub(crate) fn is_stuck(&self) -> bool {
        self.tunnel().is_some_and(Tunnel::is_stuck)
    }

    /// The number of open streams, those being dialled included.
    pub(crate) fn streams(&self) -> usize {
        self.streams.open()
    }

    /// Counts a stream for as long as the guard lives.
    pub(crate) fn count_stream(&self) -> StreamGuard {
        self.streams.count()
    }

    /// Whether the agent has asked for no new work.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The reason of the tunnel's end, once it is known.
    pub(crate) fn why_ended(&self) -> Option<&str> {
        self.why_ended.get().map(String::as_str)
    }

    /// Sets the reason of the tunnel's end, if there is none. Called before the tunnel is closed,
    /// so that a dial that loses its stream can name the reason.
    fn set_ended(&self, why: &str) {
        let _ = self.why_ended.set(why.to_owned());
    }

    /// The time of the agent's last sign of life, while it is suspect.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        *self.suspect.borrow()
    }

    /// Makes the agent suspect since its last sign of life; `None` ends that.
    fn set_suspect(&self, since: Option<Instant>) {
        self.suspect.send_replace(since);
    }

    /// Waits until the agent is suspect. Cancel safe.
    pub(crate) async fn suspected(&self) {
        // Never fails: the sender is in `self`.
        let _ = self.suspect.subscribe().wait_for(Option::is_some).await;
    }

    fn has_ended(&self) -> bool {
        self.why_ended().is_some()
    }

    /// Ends the tunnel, as its session then notices.
    fn end(&self, why: &str) {
        self.set_ended(why);
        if let Some(tunnel) = self.tunnel() {
            tunnel.close(why);
        }
    }

    fn is_usable(&self) -> bool {
        !self.is_lost() && self.silent_since().is_none()
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether the tunnel is over, or wants no more dials.
    pub(crate) fn is_leaving(&self) -> bool {
        !self.is_usable() || self.is_draining() || self.why_ended().is_some()
    }

    /// The address of the agent's end of the tunnel.
    fn remote(&self) -> Option<SocketAddr> {
        self.tunnel().map(Tunnel::remote)
    }

    fn peer(&self) -> Option<&Peer> {
        self.connected.as_ref().map(|connected| &connected.peer)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod spoofing;
#[cfg(test)]
mod tests;
