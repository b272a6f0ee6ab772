//! The registry of the tunnels of agents.
//!
//! Of two tunnels of one agent id the newest gets new dials; the older one finishes its streams,
//! and gets dials again only if the newer ends first, or for targets that the newer does not serve
//! ([`twins`](super::twins)). One on trial comes after the others. A registration is removed only by its
//! own guard. A suspect tunnel, whose agent is silent, gets no new dials and keeps its streams.
//! Tunnels of one agent id and different identities are different agents.
//!
//! A change of one tunnel changes the entries of its agent in the view, and no others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Host;

use super::departed::{Departed, Last, LastSign};
use super::twins::{Entry, Share, shares};
use super::{AgentTunnel, Identity, Routes};
use crate::route::View;

/// Tunnels of one agent. An agent holds two at most while one replaces the other, and older ones for
/// as long as their streams last. Fewer cut streams of agents that come again and again; more is
/// memory that one agent can take.
const TUNNELS: usize = 16;

/// Most of one node, under any agent ids: a tunnel takes about 12 KB, a target 0.2. With less, several
/// agents on a node hinder each other; with more, one node can take much memory.
const OF_NODE: Held = Held { tunnels: 64, targets: 4096 };

/// Most of any other identity, which a whole fleet may share. With less, large fleets are cut; more is
/// memory that one stolen credential can take.
const OF_FLEET: Held = Held { tunnels: 32_768, targets: 262_144 };

/// Older tunnels of an agent that are doubted when it comes again. Fewer find a killed predecessor
/// late when it had several tunnels; more let an agent that comes often cause many probes.
const DOUBTED: usize = 4;

/// All registrations. Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// The lock of the state is taken before that of the view.
#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    view: RwLock<View>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// By number, which is the order of registration.
    tunnels: BTreeMap<u64, Listed>,
    /// The numbers of the tunnels of each agent, in order.
    agents: BTreeMap<Key, Vec<u64>>,
    identities: HashMap<Identity, Held>,
    /// The number of tunnels beside a newer one of the same agent from another host.
    twins: usize,
    departed: Departed,
    /// Suspect tunnels.
    silent: Last,
    /// The numbers of tunnels that a dial has found over.
    lost: BTreeSet<u64>,
}

/// An agent's id is its own word, so it is one agent's only together with the identity.
type Key = (String, Identity);

fn key(agent: &AgentTunnel) -> Key {
    (agent.id.clone(), agent.identity.clone())
}

fn targets(claims: &Identifiers) -> usize {
    claims.hosts.len() + claims.cidrs.len() + claims.unusable.len()
}

/// The tunnels of an identity, and the targets that their agents claim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Held {
    tunnels: usize,
    targets: usize,
}

/// A tunnel, and what the view has of it.
#[derive(Debug)]
struct Listed {
    agent: Arc<AgentTunnel>,
    /// The routes whose proven targets the view keeps from others; `None` before the first refresh.
    owned: Option<Arc<Routes>>,
    /// The entry in the view; `None` if the tunnel gets no dials.
    entry: Option<Entry>,
    is_twin: bool,
    /// The routes by which it is found among silent ones; `None` if it is not suspect.
    silent: Option<Arc<Routes>>,
}

impl Registry {
    /// Registers an agent until the guard is dropped.
    pub fn register(&self, agent: Arc<AgentTunnel>) -> Registration {
        let mut state = self.lock();
        let number = state.enlist(&agent);
        self.refresh(&mut state, &agent);
        Registration { registry: self.clone(), number, agent }
    }

    /// Whether an identity has as many tunnels, or an agent with these claims would bring more targets,
    /// than it may have.
    pub(super) fn is_full(&self, identity: &Identity, claims: &Identifiers) -> bool {
        let most = match identity {
            Identity::Node(_) => OF_NODE,
            Identity::Names(_) | Identity::Spiffe(_) | Identity::Subject(_) | Identity::Unknown => OF_FLEET,
        };
        let held = self.lock().identities.get(identity).copied().unwrap_or_default();
        held.tunnels >= most.tunnels || held.targets + targets(claims) > most.targets
    }

    /// Makes routing look at an agent again: a tunnel of it drains, became suspect, came back or has
    /// other routes.
    pub(super) fn changed(&self, agent: &AgentTunnel) {
        self.refresh(&mut self.lock(), agent);
    }

    /// Keeps dials from a tunnel that a dial has found over. An older tunnel of the agent gets
    /// them instead.
    pub(crate) fn lost(&self, agent: &AgentTunnel) {
        agent.lost.store(true, Ordering::Relaxed);
        self.changed(agent);
    }

    /// The usable agents, indexed for routing. As long as it is held, call nothing else of the
    /// registry, and do not wait.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.inner.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// All tunnels, older ones of an agent included.
    pub(crate) fn tunnels(&self) -> Vec<Arc<AgentTunnel>> {
        self.lock().tunnels.values().map(|listed| Arc::clone(&listed.agent)).collect()
    }

    /// The number of tunnels beside a newer one of the same agent id from another host.
    pub(crate) fn twins(&self) -> usize {
        self.lock().twins
    }

    /// A standing tunnel with the id of an agent, under any identity; the newest.
    pub(super) fn of_id(&self, id: &str, wanted: impl Fn(&AgentTunnel) -> bool) -> Option<Arc<AgentTunnel>> {
        let state = self.lock();
        // No identity is less than this one.
        let first = (id.to_owned(), Identity::Node(String::new()));
        let agents = state.agents.range(first..).take_while(|((one, _), _)| one == id);
        let numbers = agents.flat_map(|(_, numbers)| numbers);
        let found = numbers.filter_map(|number| Some((*number, &state.tunnels.get(number)?.agent)));
        let newest = found.filter(|(_, agent)| wanted(agent)).max_by_key(|(number, _)| *number);
        newest.map(|(_, agent)| Arc::clone(agent))
    }

    /// Whether an agent around `host` whose routes are `wanted` left within `time`, or was found to have
    /// left.
    pub(crate) fn has_left_within(
        &self,
        time: Duration,
        host: &Host,
        wanted: impl Fn(&Routes) -> bool,
    ) -> bool {
        let state = self.lock();
        let mut lost = state.lost.iter().filter_map(|number| state.tunnels.get(number));
        lost.any(|listed| wanted(&listed.agent.routes())) || state.departed.any_within(time, host, wanted)
    }

    /// The last sign of life of an agent that served a host: of a suspect agent, or else of one
    /// that left.
    pub(crate) fn departed(&self, host: &Host) -> Option<LastSign> {
        let state = self.lock();
        let suspect = || {
            let agent = &state.tunnels.get(&state.silent.of(host)?)?.agent;
            Some(LastSign { agent: agent.id.clone(), at: agent.silent_since()? })
        };
        suspect().or_else(|| state.departed.of(host))
    }

    /// The last sign of life of the agent that left last.
    pub(crate) fn last_departed(&self) -> Option<LastSign> {
        self.lock().departed.latest()
    }

    /// Every agent that left or is suspect: its id, some of its routes, and when it was last seen; the
    /// latest last. `each` is called under the registry's lock.
    pub(crate) fn for_each_departed(&self, mut each: impl FnMut(&str, &Routes, Instant)) {
        let state = self.lock();
        state.departed.each(&mut each);
        for listed in state.tunnels.values() {
            if let (Some(since), Some(routes)) = (listed.agent.silent_since(), &listed.silent) {
                each(&listed.agent.id, routes, since);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the entries of an agent's tunnels up to date. Dials see all of the change or nothing.
    fn refresh(&self, state: &mut State, agent: &AgentTunnel) {
        let shares = state.shares(agent);
        state.apply(shares, &mut self.view_mut());
    }

    fn remove(&self, number: u64, agent: &AgentTunnel) {
        let mut state = self.lock();
        let Some(listed) = state.forget(number) else { return };
        let shares = state.shares(agent);
        let mut view = self.view_mut();
        listed.leave(&mut view);
        state.apply(shares, &mut view);
    }

    fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.inner.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lists a tunnel, and returns its number.
    fn enlist(&mut self, agent: &Arc<AgentTunnel>) -> u64 {
        let key = key(agent);
        self.make_room(&key);
        let number = self.next;
        self.next += 1;
        let held = self.identities.entry(agent.identity.clone()).or_default();
        held.tunnels += 1;
        held.targets += targets(&agent.claims);
        self.agents.entry(key).or_default().push(number);
        let agent = Arc::clone(agent);
        let listed = Listed { agent, owned: None, entry: None, is_twin: false, silent: None };
        self.tunnels.insert(number, listed);
        number
    }

    /// Doubts the older tunnels of an agent that comes again, and ends one that is too many.
    fn make_room(&self, key: &Key) {
        let Some(numbers) = self.agents.get(key) else { return };
        let older = || numbers.iter().filter_map(|number| Some(&self.tunnels.get(number)?.agent));
        for agent in older().rev().take(DOUBTED) {
            if let Some(peer) = agent.peer() {
                peer.doubt();
            }
        }
        if numbers.len() < TUNNELS {
            return;
        }
        // Of equals the first, which is the oldest.
        let ends = |agent: &&Arc<AgentTunnel>| {
            (agent.has_ended(), agent.silent_since().is_none(), agent.streams() > 0)
        };
        if let Some(agent) = older().min_by_key(ends) {
            agent.end("the agent has too many newer tunnels");
        }
    }

    /// Takes a tunnel from everything but the view.
    fn forget(&mut self, number: u64) -> Option<Listed> {
        let listed = self.tunnels.remove(&number)?;
        let agent = &listed.agent;
        if let Some(routes) = &listed.silent {
            self.silent.forget(number, routes);
        }
        self.lost.remove(&number);
        self.twins -= usize::from(listed.is_twin);
        self.departed.push(&agent.id, &agent.routes());
        let key = key(agent);
        if let Some(numbers) = self.agents.get_mut(&key) {
            numbers.retain(|one| *one != number);
            if numbers.is_empty() {
                self.agents.remove(&key);
            }
        }
        if let Some(held) = self.identities.get_mut(&agent.identity) {
            held.tunnels -= 1;
            held.targets -= targets(&agent.claims);
            if held.tunnels == 0 {
                self.identities.remove(&agent.identity);
            }
        }
        Some(listed)
    }

    /// The share of each tunnel of an agent, by number.
    fn shares(&self, agent: &AgentTunnel) -> Vec<(u64, Share)> {
        let numbers = self.agents.get(&key(agent)).into_iter().flatten();
        let tunnels = numbers.filter_map(|number| Some((*number, &self.tunnels.get(number)?.agent)));
        let (numbers, tunnels): (Vec<_>, Vec<_>) = tunnels.unzip();
        numbers.into_iter().zip(shares(&tunnels)).collect()
    }

    fn apply(&mut self, shares: Vec<(u64, Share)>, view: &mut View) {
        for (number, Share { entry, is_twin }) in shares {
            let Some(listed) = self.tunnels.get_mut(&number) else { continue };
            listed.mark_silence(number, &mut self.silent);
            if listed.agent.is_lost() {
                self.lost.insert(number);
            }
            self.twins += usize::from(is_twin);
            self.twins -= usize::from(std::mem::replace(&mut listed.is_twin, is_twin));
            listed.apply(entry, view);
        }
    }
}

impl Listed {
    /// Enters the tunnel among silent ones, or takes it out.
    fn mark_silence(&mut self, number: u64, silent: &mut Last) {
        match (self.agent.silent_since().is_some(), self.silent.take()) {
            (true, None) => self.silent = Some(silent.add(number, &self.agent.routes())),
            (false, Some(routes)) => silent.forget(number, &routes),
            (_, was) => self.silent = was,
        }
    }

    /// Changes the tunnel's part of the view.
    fn apply(&mut self, entry: Option<Entry>, view: &mut View) {
        let routes = self.agent.routes();
        let is_owned = self.owned.as_ref().is_some_and(|owned| Arc::ptr_eq(owned, &routes));
        if is_owned && self.entry == entry {
            return;
        }
        // First, because what nobody owns or serves is removed.
        view.own(&routes.proven);
        self.leave(view);
        if let Some(Entry { routes, drains }) = &entry {
            view.enter(&self.agent, routes, *drains);
        }
        (self.owned, self.entry) = (Some(routes), entry);
    }

    /// Takes the tunnel out of the view.
    fn leave(&self, view: &mut View) {
        if let Some(entry) = &self.entry {
            view.leave(&self.agent, &entry.routes);
        }
        if let Some(owned) = &self.owned {
            view.disown(&owned.proven);
        }
    }
}

/// The presence of one tunnel in the registry, until it is dropped.
#[derive(Debug)]
pub struct Registration {
    registry: Registry,
    number: u64,
    agent: Arc<AgentTunnel>,
}

impl Registration {
    /// Makes routing look at the tunnel again: its agent drains, became suspect or came back.
    pub(super) fn changed(&self) {
        self.registry.changed(&self.agent);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.remove(self.number, &self.agent);
    }
}
