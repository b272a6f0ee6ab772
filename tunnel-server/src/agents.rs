//! The registry: which agents have a tunnel to this server.
//!
//! Two tunnels of one agent id never mix: the newest gets new dials, the older
//! one finishes its streams and is used again only if the newer goes first. A
//! registration is removed only by its own guard. A suspect tunnel, of whose agent
//! nothing is heard, is for new dials as good as gone; its streams live on.

mod authenticator;
mod departed;
mod session;

use std::collections::VecDeque;
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

pub use authenticator::{Authenticator, Rejected};
pub use session::{Sessions, accept_quic, accept_tcp};

/// Agents that left and are still remembered, so that an error can say when.
const DEPARTED: usize = 1024;

/// One tunnel of an agent, and all that routing, dials and pages know of it.
#[derive(Debug)]
pub struct AgentTunnel {
    /// The agent's id. Several tunnels may have the same.
    pub id: String,
    /// The targets that the agent serves.
    pub identifiers: Identifiers,
    /// `None` in tests of routing.
    connected: Option<Connected>,
    streams: Arc<Streams>,
    draining: AtomicBool,
    /// When the agent was last heard of, while it is suspect.
    suspect: watch::Sender<Option<Instant>>,
    /// The tunnel is over, and its session has not taken notice yet.
    lost: AtomicBool,
    /// Why the tunnel is over, once its session knows.
    why_ended: OnceLock<String>,
}

#[derive(Debug)]
struct Connected {
    tunnel: Tunnel,
    peer: Peer,
}

impl AgentTunnel {
    /// A tunnel that stands; `streams` counts its streams.
    pub fn new(
        id: String,
        identifiers: Identifiers,
        tunnel: Tunnel,
        peer: Peer,
        streams: Arc<Streams>,
    ) -> Self {
        Self { connected: Some(Connected { tunnel, peer }), streams, ..Self::detached(id, identifiers) }
    }

    /// An agent without a tunnel: routing can pick it, a dial of it fails. For tests and
    /// guards of routing.
    pub fn detached(id: impl Into<String>, identifiers: Identifiers) -> Self {
        Self {
            id: id.into(),
            identifiers,
            connected: None,
            streams: Arc::default(),
            draining: AtomicBool::new(false),
            suspect: watch::Sender::new(None),
            lost: AtomicBool::new(false),
            why_ended: OnceLock::new(),
        }
    }

    /// Its tunnel.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        self.connected.as_ref().map(|connected| &connected.tunnel)
    }

    /// Whether the agent reads nothing, so that others are dialled first.
    pub fn is_stuck(&self) -> bool {
        self.tunnel().is_some_and(Tunnel::is_stuck)
    }

    /// Open streams, those being dialled included.
    pub fn streams(&self) -> usize {
        self.streams.open()
    }

    /// Counts a stream for as long as the guard lives.
    pub fn count_stream(&self) -> StreamGuard {
        self.streams.count()
    }

    /// Whether the agent asked for no more work.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The agent asked for no more work.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why the tunnel is over, once that is known.
    pub fn why_ended(&self) -> Option<&str> {
        self.why_ended.get().map(String::as_str)
    }

    /// Notes why the tunnel is over. Call it before the tunnel is closed, so that a dial
    /// that loses its stream can name the reason.
    fn set_ended(&self, why: &str) {
        // The first reason is the true one.
        let _ = self.why_ended.set(why.to_owned());
    }

    /// When the agent was last heard of, while it is suspect and gets no new dials.
    pub fn silent_since(&self) -> Option<Instant> {
        *self.suspect.borrow()
    }

    /// The agent is suspect and was last heard of then; `None`: it is back.
    pub fn set_suspect(&self, since: Option<Instant>) {
        self.suspect.send_replace(since);
    }

    /// Waits until the agent is suspect. Cancel safe.
    pub async fn suspected(&self) {
        // Never fails: the sender is in `self`.
        let _ = self.suspect.subscribe().wait_for(Option::is_some).await;
    }

    fn is_usable(&self) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.silent_since().is_none()
    }

    /// Asks the agent's process whether it lives, because another one has its id.
    fn doubt(&self) {
        if let Some(connected) = &self.connected {
            connected.peer.doubt();
        }
    }

    /// Asks the agent to prefer other servers.
    fn announce_drain(&self) {
        if let Some(connected) = &self.connected {
            connected.peer.drain("the server is draining");
        }
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
    /// The registrations changed after the view was made. Making it lazily
    /// keeps a storm of a thousand agents from making it a thousand times.
    stale: AtomicBool,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of registration.
    tunnels: Vec<(u64, Arc<AgentTunnel>)>,
    departed: VecDeque<Departed>,
}

/// An agent that left: its words only, because its tunnel holds memory.
#[derive(Debug)]
struct Departed {
    at: Instant,
    id: String,
    hosts: Vec<Host>,
}

impl Registry {
    /// Registers an agent until the guard is dropped.
    pub fn register(&self, agent: Arc<AgentTunnel>) -> Registration {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        for (_, older) in state.tunnels.iter().filter(|(_, older)| older.id == agent.id) {
            older.doubt();
        }
        state.tunnels.push((number, agent));
        drop(state);
        self.inner.stale.store(true, Ordering::Release);
        Registration { registry: self.clone(), number }
    }

    /// A dial found the agent's tunnel over: it is not to be picked again, and
    /// an older tunnel of the agent, if there is one, is.
    pub fn lost(&self, agent: &AgentTunnel) {
        agent.lost.store(true, Ordering::Relaxed);
        self.inner.stale.store(true, Ordering::Release);
    }

    /// The agents as they are now.
    pub fn view(&self) -> Arc<View> {
        if self.inner.stale.load(Ordering::Acquire) {
            let state = self.lock();
            self.inner.stale.store(false, Ordering::Release);
            self.inner.view.store(Arc::new(View::new(newest(&state.tunnels))));
        }
        self.inner.view.load_full()
    }

    /// All tunnels, older ones of an agent included.
    pub fn tunnels(&self) -> Vec<Arc<AgentTunnel>> {
        self.lock().tunnels.iter().map(|(_, agent)| Arc::clone(agent)).collect()
    }

    /// The agent that last served a host and when it was last seen, if one did:
    /// one that is suspect, or else one that left.
    pub fn departed(&self, host: &Host) -> Option<(String, Instant)> {
        let state = self.lock();
        let suspects = state
            .tunnels
            .iter()
            .filter_map(|(_, agent)| Some((agent.silent_since()?, &agent.id, &agent.identifiers.hosts)));
        let departed = state.departed.iter().map(|agent| (agent.at, &agent.id, &agent.hosts));
        let (at, id, _) = departed.chain(suspects).rev().find(|(_, _, hosts)| hosts.contains(host))?;
        Some((id.clone(), at))
    }

    /// The agent that left last, whatever it served, and when.
    pub fn last_departed(&self) -> Option<(String, Instant)> {
        self.lock().departed.back().map(|agent| (agent.id.clone(), agent.at))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Per agent id, of the tunnels that can be used, the one that registered last
/// and does not drain; if all drain, the last.
fn newest(tunnels: &[(u64, Arc<AgentTunnel>)]) -> impl Iterator<Item = Arc<AgentTunnel>> {
    let mut best: std::collections::HashMap<&str, &Arc<AgentTunnel>> = std::collections::HashMap::new();
    for (_, agent) in tunnels.iter().filter(|(_, agent)| agent.is_usable()) {
        let slot = best.entry(&agent.id).or_insert(agent);
        if !agent.is_draining() || slot.is_draining() {
            *slot = agent;
        }
    }
    // In the order of registration, so that a view does not depend on hashing.
    tunnels
        .iter()
        .filter(move |(_, agent)| best.get(agent.id.as_str()).is_some_and(|b| Arc::ptr_eq(b, agent)))
        .map(|(_, agent)| Arc::clone(agent))
}

/// An agent's presence; dropping it removes exactly this tunnel.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    number: u64,
}

impl Registration {
    /// The agent began to drain, became suspect or came back: another tunnel of it
    /// may be better now.
    pub fn changed(&self) {
        self.registry.inner.stale.store(true, Ordering::Release);
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
            let (id, hosts) = (agent.id.clone(), agent.identifiers.hosts.clone());
            state.departed.push_back(Departed { at: Instant::now(), id, hosts });
        }
        drop(state);
        self.registry.inner.stale.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> Arc<AgentTunnel> {
        Arc::new(AgentTunnel::detached(id, Identifiers::default()))
    }

    fn active(registry: &Registry) -> Vec<Arc<AgentTunnel>> {
        registry.view().agents().to_vec()
    }

    #[tokio::test]
    async fn the_newest_tunnel_of_an_agent_is_active_and_the_older_one_is_promoted_back() {
        let registry = Registry::default();
        let (old, new) = (agent("a"), agent("a"));
        let _old = registry.register(Arc::clone(&old));
        let newer = registry.register(Arc::clone(&new));
        assert!(Arc::ptr_eq(&active(&registry)[0], &new) && active(&registry).len() == 1);
        drop(newer);
        assert!(Arc::ptr_eq(&active(&registry)[0], &old));
    }

    #[tokio::test]
    async fn a_late_goodbye_of_an_old_tunnel_does_not_evict_the_new_one() {
        let registry = Registry::default();
        let new = agent("a");
        let older = registry.register(agent("a"));
        let _newer = registry.register(Arc::clone(&new));
        drop(older);
        assert!(Arc::ptr_eq(&active(&registry)[0], &new));
    }

    #[tokio::test]
    async fn a_draining_newest_tunnel_gives_way_to_an_older_one() {
        let registry = Registry::default();
        let (old, new) = (agent("a"), agent("a"));
        let _old = registry.register(Arc::clone(&old));
        let newer = registry.register(Arc::clone(&new));
        new.set_draining();
        newer.changed();
        assert!(Arc::ptr_eq(&active(&registry)[0], &old));
    }

    #[tokio::test]
    async fn nothing_of_an_agent_that_left_is_kept_but_its_words() {
        let (registry, agent) = (Registry::default(), agent("a"));
        drop(registry.register(Arc::clone(&agent)));
        drop(registry.view());
        assert_eq!(Arc::strong_count(&agent), 1);
    }

    #[tokio::test]
    async fn a_suspect_tunnel_gets_no_dials_until_it_is_back() {
        let registry = Registry::default();
        let (old, new) = (agent("a"), agent("a"));
        let _old = registry.register(Arc::clone(&old));
        let newer = registry.register(Arc::clone(&new));
        new.set_suspect(Some(Instant::now()));
        newer.changed();
        assert!(Arc::ptr_eq(&active(&registry)[0], &old));
        new.set_suspect(None);
        newer.changed();
        assert!(Arc::ptr_eq(&active(&registry)[0], &new) && active(&registry).len() == 1);
        for agent in [&old, &new] {
            agent.set_suspect(Some(Instant::now()));
        }
        newer.changed();
        assert!(active(&registry).is_empty());
        new.suspected().await;
    }

    #[tokio::test]
    async fn who_is_suspect_is_told_of_as_if_it_had_left() {
        let registry = Registry::default();
        let ids = Identifiers { hosts: vec![Host::Name("node".into())], ..Identifiers::default() };
        let silent = Arc::new(AgentTunnel::detached("a", ids));
        let _registered = registry.register(Arc::clone(&silent));
        assert!(registry.departed(&Host::Name("node".into())).is_none());
        let since = Instant::now();
        silent.set_suspect(Some(since));
        assert_eq!(registry.departed(&Host::Name("node".into())), Some(("a".to_owned(), since)));
    }

    #[tokio::test]
    async fn who_left_is_remembered_for_a_while() {
        let registry = Registry::default();
        let ids = Identifiers { hosts: vec![Host::Name("node".into())], ..Identifiers::default() };
        drop(registry.register(Arc::new(AgentTunnel::detached("a", ids))));
        assert_eq!(registry.departed(&Host::Name("node".into())).unwrap().0, "a");
        assert!(registry.departed(&Host::Name("other".into())).is_none());
        assert_eq!(registry.last_departed().unwrap().0, "a");
        for _ in 0..2 * DEPARTED {
            drop(registry.register(agent("b")));
        }
        assert!(registry.departed(&Host::Name("node".into())).is_none());
    }
}
