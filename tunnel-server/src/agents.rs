//! The registry of the agents that have a tunnel to this server.
//!
//! Of two tunnels of one agent id the newest gets new dials; the older one finishes its streams,
//! and gets dials again only if the newer ends first, or for targets that the newer does not serve
//! ([`twins`]). A registration is removed only by its own
//! guard. A suspect tunnel, whose agent is silent, gets no new dials and keeps its streams.
//! Tunnels of one agent id and different identities are different agents.

mod arrivals;
mod authenticator;
mod credential;
mod departed;
mod follow;
mod identity;
mod routes;
mod session;
mod tokens;
mod trust;
mod turned_away;
mod twins;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::time::Instant;
use tunnel::liveness::Peer;
use tunnel::streams::{StreamGuard, Streams};
use tunnel::transport::Tunnel;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Host;

use crate::route::View;

pub(crate) use arrivals::{accept_quic, accept_tcp};
pub(crate) use authenticator::Authenticator;
use credential::Credential;
pub(crate) use identity::{Identity, IdentityMap, Template, text_of_host, texts_of_certificate};
pub(crate) use routes::{Routes, shown};
pub(crate) use session::{Limits, Sessions};
pub(crate) use trust::{Mode, Rules, Source, Trust};
pub(crate) use twins::Usable;

/// Agents that left and are remembered for the errors of dials. With fewer, errors say less after
/// the loss of many agents; more is memory.
const DEPARTED: usize = 1024;

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
}

#[derive(Debug)]
struct Connected {
    tunnel: Tunnel,
    peer: Peer,
}

impl AgentTunnel {
    /// An established tunnel. `streams` counts its streams.
    fn new(agent: Admitted, tunnel: Tunnel, peer: Peer, streams: Arc<Streams>) -> Self {
        let Admitted { id, identity, credential, claims, routes } = agent;
        let (connected, routes) = (Some(Connected { tunnel, peer }), ArcSwap::from_pointee(routes));
        Self { connected, streams, identity, credential, routes, ..Self::of(id, claims) }
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

/// All registrations. Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    view: ArcSwap<View>,
    /// Set when registrations have changed since the view was made. The next use makes it
    /// anew, so a storm of a thousand agents does not make it a thousand times.
    stale: AtomicBool,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of registration.
    tunnels: Vec<(u64, Arc<AgentTunnel>)>,
    departed: VecDeque<Departed>,
}

/// An agent's last sign of life.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LastSign {
    pub(crate) agent: String,
    pub(crate) at: Instant,
}

/// An agent that left, without its tunnel, which holds memory.
#[derive(Debug)]
struct Departed {
    at: Instant,
    id: String,
    routes: Arc<Routes>,
}

impl Registry {
    /// Registers an agent until the guard is dropped.
    pub fn register(&self, agent: Arc<AgentTunnel>) -> Registration {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        for (_, older) in state.tunnels.iter().filter(|(_, older)| is_same(older, &agent)) {
            if let Some(peer) = older.peer() {
                peer.doubt();
            }
        }
        state.tunnels.push((number, agent));
        drop(state);
        self.changed();
        Registration { registry: self.clone(), number }
    }

    fn changed(&self) {
        self.inner.stale.store(true, Ordering::Release);
    }

    /// Keeps dials from a tunnel that a dial has found over. An older tunnel of the agent gets
    /// them instead.
    pub(crate) fn lost(&self, agent: &AgentTunnel) {
        agent.lost.store(true, Ordering::Relaxed);
        self.changed();
    }

    /// The usable agents, indexed for routing.
    pub fn view(&self) -> Arc<View> {
        if self.inner.stale.load(Ordering::Acquire) {
            let state = self.lock();
            self.inner.stale.store(false, Ordering::Release);
            let registered: Vec<_> = state.tunnels.iter().map(|(_, agent)| agent.routes()).collect();
            let usable = twins::usable(&state.tunnels);
            self.inner.view.store(Arc::new(View::of(usable, &registered)));
        }
        self.inner.view.load_full()
    }

    /// All tunnels, older ones of an agent included.
    pub(crate) fn tunnels(&self) -> Vec<Arc<AgentTunnel>> {
        self.lock().tunnels.iter().map(|(_, agent)| Arc::clone(agent)).collect()
    }

    /// The last sign of life of an agent that served a host: of a suspect agent, or else of one
    /// that left.
    pub(crate) fn departed(&self, host: &Host) -> Option<LastSign> {
        let state = self.lock();
        let suspect = state
            .tunnels
            .iter()
            .filter_map(|(_, agent)| Some((agent.silent_since()?, &agent.id, agent.routes())))
            .rev()
            .find(|(_, _, routes)| routes.hosts().any(|one| one == host))
            .map(|(at, id, _)| (at, id));
        let departed = || {
            let agent =
                state.departed.iter().rev().find(|agent| agent.routes.hosts().any(|one| one == host))?;
            Some((agent.at, &agent.id))
        };
        let (at, id) = suspect.or_else(departed)?;
        Some(LastSign { agent: id.clone(), at })
    }

    /// The last sign of life of the agent that left last.
    pub(crate) fn last_departed(&self) -> Option<LastSign> {
        self.lock().departed.back().map(|agent| LastSign { agent: agent.id.clone(), at: agent.at })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An agent's id is its own word, so it is one agent's only together with the identity.
fn key(agent: &AgentTunnel) -> (&str, &Identity) {
    (&agent.id, &agent.identity)
}

fn is_same(one: &AgentTunnel, other: &AgentTunnel) -> bool {
    key(one) == key(other)
}

/// The presence of one tunnel in the registry, until it is dropped.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    number: u64,
}

impl Registration {
    /// Makes routing look at the tunnel again: its agent drains, became suspect or came back.
    fn changed(&self) {
        self.registry.changed();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        if let Some(at) = state.tunnels.iter().position(|(number, _)| *number == self.number) {
            let (_, agent) = state.tunnels.remove(at);
            if state.departed.len() == DEPARTED {
                state.departed.pop_front();
            }
            let (id, routes) = (agent.id.clone(), agent.routes());
            state.departed.push_back(Departed { at: Instant::now(), id, routes });
        }
        drop(state);
        self.registry.changed();
    }
}

#[cfg(test)]
mod spoofing;
#[cfg(test)]
mod tests;
