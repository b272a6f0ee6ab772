//! The registry: which agents have a tunnel to this server.
//!
//! Two tunnels of one agent id never mix: the newest gets new dials, the older
//! one finishes its streams and is used again only if the newer goes first. A
//! registration is removed only by its own guard. A suspect tunnel, of whose agent
//! nothing is heard, is for new dials as good as gone; its streams live on.

mod authenticator;
mod konnectivity;
mod session;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tunnel::control::Say;
use tunnel::signs::UNPROMISED;
use tunnel::transport::Tunnel;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::message::Control;
use tunnel_proto::target::Host;

use crate::route::View;

pub use authenticator::{Authenticator, Rejected};
pub use session::{Sessions, accept_quic, accept_tcp};

/// Agents that left and are still remembered, so that an error can say when.
const DEPARTED: usize = 1024;

/// What an agent last said of its life.
#[derive(Debug, Clone, Copy)]
pub struct Said {
    /// When that came.
    pub at: Instant,
    /// How long until it says so again, at the latest.
    pub next: Duration,
    /// How often it has said so.
    pub times: u64,
}

/// A registered agent, or rather one tunnel of it.
#[derive(Debug)]
pub struct Agent {
    /// The agent's name.
    pub id: String,
    /// What it serves.
    pub identifiers: Identifiers,
    tunnel: Option<Tunnel>,
    say: Option<Say>,
    streams: AtomicUsize,
    /// Told when the first stream is opened.
    busy: Notify,
    /// Told when another tunnel of the same agent comes.
    succeeded: Notify,
    alive: Mutex<Said>,
    draining: AtomicBool,
    /// When it was last heard of, while it is suspect.
    suspect: watch::Sender<Option<Instant>>,
    /// The tunnel is over, and its session has not taken notice yet.
    lost: AtomicBool,
    /// Why the tunnel is over, once its session knows.
    why_ended: OnceLock<String>,
}

impl Agent {
    /// An agent on a tunnel; `say` reaches its control stream.
    pub fn new(id: String, identifiers: Identifiers, tunnel: Tunnel, say: Say) -> Self {
        Self {
            id,
            identifiers,
            tunnel: Some(tunnel),
            say: Some(say),
            streams: AtomicUsize::new(0),
            busy: Notify::new(),
            succeeded: Notify::new(),
            alive: Mutex::new(Said { at: Instant::now(), next: UNPROMISED, times: 0 }),
            draining: AtomicBool::new(false),
            suspect: watch::Sender::new(None),
            lost: AtomicBool::new(false),
            why_ended: OnceLock::new(),
        }
    }

    /// An agent without a tunnel: routing can pick it, a dial of it fails. For
    /// tests and guards of routing.
    pub fn detached(id: &str, identifiers: Identifiers) -> Self {
        Self {
            id: id.to_owned(),
            identifiers,
            tunnel: None,
            say: None,
            streams: AtomicUsize::new(0),
            busy: Notify::new(),
            succeeded: Notify::new(),
            alive: Mutex::new(Said { at: Instant::now(), next: UNPROMISED, times: 0 }),
            draining: AtomicBool::new(false),
            suspect: watch::Sender::new(None),
            lost: AtomicBool::new(false),
            why_ended: OnceLock::new(),
        }
    }

    /// Its tunnel.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        self.tunnel.as_ref()
    }

    /// Whether it reads nothing, so that others are better asked. Only on a
    /// stream that all connections share can one of them bring that about.
    pub fn is_stuck(&self) -> bool {
        match &self.tunnel {
            Some(Tunnel::Konnectivity(link)) => link.is_stuck(),
            Some(Tunnel::Quic(_) | Tunnel::H2(_)) | None => false,
        }
    }

    /// Open streams, those being dialled included.
    pub fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Counts a stream for as long as the guard lives.
    pub fn count_stream(self: &Arc<Self>) -> StreamCount {
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.busy.notify_one();
        }
        StreamCount(Arc::clone(self))
    }

    /// Waits until there is a stream. Cancel safe.
    pub async fn busy(&self) {
        while self.streams() == 0 {
            self.busy.notified().await;
        }
    }

    /// Waits until another tunnel of the same agent has come. Cancel safe.
    pub async fn succeeded(&self) {
        self.succeeded.notified().await;
    }

    /// What it last said of its life.
    pub fn alive(&self) -> Said {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It lives, and says so again after `next` at the latest.
    pub fn set_alive(&self, next: Duration) {
        let mut said = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        *said = Said { at: Instant::now(), next, times: said.times + 1 };
    }

    /// Whether it asked for no more work.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// It asked for no more work.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why its tunnel is over, once that is known.
    pub fn why_ended(&self) -> Option<&str> {
        self.why_ended.get().map(String::as_str)
    }

    /// Its tunnel is over. Said before the tunnel is closed, so that whoever
    /// loses a stream by that can tell why.
    fn set_ended(&self, why: &str) {
        // The first reason is the true one.
        let _ = self.why_ended.set(why.to_owned());
    }

    /// Since when nothing was heard of it, if that is so long that it gets no new
    /// dials.
    pub fn silent_since(&self) -> Option<Instant> {
        *self.suspect.borrow()
    }

    /// Nothing was heard of it since then, or it is back.
    pub fn set_suspect(&self, since: Option<Instant>) {
        self.suspect.send_replace(since);
    }

    /// Waits until it is suspect. Cancel safe.
    pub async fn suspected(&self) {
        // Never fails: the sender is in `self`.
        let _ = self.suspect.subscribe().wait_for(Option::is_some).await;
    }

    fn is_usable(&self) -> bool {
        !self.lost.load(Ordering::Relaxed) && self.silent_since().is_none()
    }

    /// Sends a notice on the control stream, if there is room for one.
    pub fn say(&self, control: Control) {
        if let Some(say) = &self.say {
            // A full queue means that the agent is not reading; the heartbeat
            // will tell. A closed one means that it is gone.
            let _ = say.try_send(Box::new(control));
        }
    }
}

/// One stream of an agent, counted until dropped.
#[derive(Debug)]
pub struct StreamCount(Arc<Agent>);

impl StreamCount {
    /// The agent.
    pub fn agent(&self) -> &Arc<Agent> {
        &self.0
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All registrations. Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
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
    tunnels: Vec<(u64, Arc<Agent>)>,
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
    pub fn register(&self, agent: Arc<Agent>) -> Registration {
        let number = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        for (_, older) in state.tunnels.iter().filter(|(_, older)| older.id == agent.id) {
            older.succeeded.notify_one();
        }
        state.tunnels.push((number, agent));
        drop(state);
        self.shared.stale.store(true, Ordering::Release);
        Registration { registry: self.clone(), number }
    }

    /// A dial found the agent's tunnel over: it is not to be picked again, and
    /// an older tunnel of the agent, if there is one, is.
    pub fn lost(&self, agent: &Agent) {
        agent.lost.store(true, Ordering::Relaxed);
        self.shared.stale.store(true, Ordering::Release);
    }

    /// The agents as they are now.
    pub fn view(&self) -> Arc<View> {
        if self.shared.stale.load(Ordering::Acquire) {
            let state = self.lock();
            self.shared.stale.store(false, Ordering::Release);
            self.shared.view.store(Arc::new(View::new(newest(&state.tunnels))));
        }
        self.shared.view.load_full()
    }

    /// All tunnels, older ones of an agent included.
    pub fn tunnels(&self) -> Vec<Arc<Agent>> {
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
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Per agent id, of the tunnels that can be used, the one that registered last
/// and does not drain; if all drain, the last.
fn newest(tunnels: &[(u64, Arc<Agent>)]) -> impl Iterator<Item = Arc<Agent>> {
    let mut best: std::collections::HashMap<&str, &Arc<Agent>> = std::collections::HashMap::new();
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
        self.registry.shared.stale.store(true, Ordering::Release);
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
        self.registry.shared.stale.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(id: &str) -> Arc<Agent> {
        Arc::new(Agent::detached(id, Identifiers::default()))
    }

    fn active(registry: &Registry) -> Vec<Arc<Agent>> {
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
        let silent = Arc::new(Agent::detached("a", ids));
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
        drop(registry.register(Arc::new(Agent::detached("a", ids))));
        assert_eq!(registry.departed(&Host::Name("node".into())).unwrap().0, "a");
        assert!(registry.departed(&Host::Name("other".into())).is_none());
        assert_eq!(registry.last_departed().unwrap().0, "a");
        for _ in 0..2 * DEPARTED {
            drop(registry.register(agent("b")));
        }
        assert!(registry.departed(&Host::Name("node".into())).is_none());
    }
}
