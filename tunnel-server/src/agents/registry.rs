//! The registry of the tunnels of agents.
//!
//! Of two tunnels of one agent id the newest gets new dials; the older one finishes its streams,
//! and gets dials again only if the newer ends first. A registration is removed only by its own
//! guard. A suspect tunnel, whose agent is silent, gets no new dials and keeps its streams.
//! Tunnels of one agent id and different identities are different agents.
//!
//! A change of one tunnel changes the entries of its agent in the view, and no others.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use tokio::time::Instant;
use tunnel_proto::target::Host;

use super::departed::{Departed, Last, LastSign};
use super::{AgentTunnel, Identity, Routes};
use crate::route::View;

/// Tunnels of one agent. An agent holds two at most while one replaces the other, and older ones for
/// as long as their streams last. Fewer cut streams of agents that come again and again; more is
/// memory that one agent can take.
const TUNNELS: usize = 16;

/// Tunnels of one node, under any agent ids. With fewer, several agents on a node hinder each other;
/// with more, one node can take much memory. Other identities have no limit, because a fleet may
/// share them.
const TUNNELS_OF_NODE: usize = 64;

/// Older tunnels of an agent that are doubted when it comes again. Fewer find a killed predecessor
/// late when it had several tunnels; more let an agent that comes often cause many probes.
const DOUBTED: usize = 4;

/// All registrations. Clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// Whoever needs both locks takes that of the state first.
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
    agents: HashMap<Key, Vec<u64>>,
    /// The number of tunnels of each identity.
    identities: HashMap<Identity, usize>,
    departed: Departed,
    /// Suspect tunnels.
    silent: Last,
}

/// An agent's id is its own word, so it is one agent's only together with the identity.
type Key = (String, Identity);

/// A tunnel, and its entries in the view.
#[derive(Debug)]
struct Listed {
    agent: Arc<AgentTunnel>,
    /// The routes that the view has.
    routes: Arc<Routes>,
    place: Place,
    /// The hosts by which it is found among silent ones; empty if it is not suspect.
    silent: Vec<Host>,
}

/// The place of a tunnel in the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It gets no dials.
    None,
    /// It gets dials before those that drain.
    Ready,
    /// It drains.
    Draining,
}

impl Registry {
    /// Registers an agent until the guard is dropped.
    pub fn register(&self, agent: Arc<AgentTunnel>) -> Registration {
        let key = (agent.id.clone(), agent.identity.clone());
        let mut state = self.lock();
        state.make_room(&key);
        let number = state.next;
        state.next += 1;
        *state.identities.entry(agent.identity.clone()).or_default() += 1;
        state.agents.entry(key).or_default().push(number);
        let routes = agent.routes();
        self.inner.view.write().unwrap_or_else(PoisonError::into_inner).own(&routes.proven);
        let listed = Listed { agent: Arc::clone(&agent), routes, place: Place::None, silent: Vec::new() };
        state.tunnels.insert(number, listed);
        self.refresh(&mut state, &agent);
        Registration { registry: self.clone(), number, agent }
    }

    /// Whether an identity has as many tunnels as it may have.
    pub(super) fn is_full(&self, identity: &Identity) -> bool {
        match identity {
            Identity::Node(_) => self.lock().identities.get(identity).is_some_and(|n| *n >= TUNNELS_OF_NODE),
            Identity::Names(_) | Identity::Spiffe(_) | Identity::Subject(_) | Identity::Unknown => false,
        }
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
        self.lock().departed.last()
    }

    /// Every agent that left or is suspect: its id, its hosts, and when it was last seen; the
    /// latest last. `each` is called under the registry's lock.
    pub fn for_each_departed(&self, mut each: impl FnMut(&str, &[Host], Instant)) {
        let state = self.lock();
        state.departed.each(&mut each);
        for listed in state.tunnels.values() {
            if let Some(since) = listed.agent.silent_since() {
                each(&listed.agent.id, &listed.silent, since);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the entries of an agent's tunnels up to date.
    fn refresh(&self, state: &mut State, agent: &AgentTunnel) {
        let State { tunnels, agents, silent, .. } = state;
        let Some(numbers) = agents.get(&(agent.id.clone(), agent.identity.clone())) else { return };
        let best = best(numbers, tunnels);
        for number in numbers {
            let Some(listed) = tunnels.get_mut(number) else { continue };
            listed.mark_silence(*number, silent);
            let place = match best {
                Some((one, drains)) if one == *number => {
                    if drains {
                        Place::Draining
                    } else {
                        Place::Ready
                    }
                }
                Some(_) | None => Place::None,
            };
            let routes = listed.agent.routes();
            if listed.place == place && Arc::ptr_eq(&listed.routes, &routes) {
                continue;
            }
            let mut view = self.inner.view.write().unwrap_or_else(PoisonError::into_inner);
            if listed.place != Place::None {
                view.leave(&listed.agent, &listed.routes);
            }
            view.own(&routes.proven);
            view.disown(&listed.routes.proven);
            if place != Place::None {
                view.enter(&listed.agent, &routes, place == Place::Draining);
            }
            (listed.place, listed.routes) = (place, routes);
        }
    }

    fn remove(&self, number: u64, agent: &AgentTunnel) {
        let mut state = self.lock();
        let Some(listed) = state.tunnels.remove(&number) else { return };
        let mut view = self.inner.view.write().unwrap_or_else(PoisonError::into_inner);
        if listed.place != Place::None {
            view.leave(&listed.agent, &listed.routes);
        }
        view.disown(&listed.routes.proven);
        drop(view);
        state.silent.forget(number, &listed.silent);
        state.departed.push(&agent.id, &listed.routes);
        let key = (agent.id.clone(), agent.identity.clone());
        if let Some(numbers) = state.agents.get_mut(&key) {
            numbers.retain(|one| *one != number);
            if numbers.is_empty() {
                state.agents.remove(&key);
            }
        }
        if let Some(count) = state.identities.get_mut(&agent.identity) {
            *count -= 1;
            if *count == 0 {
                state.identities.remove(&agent.identity);
            }
        }
        self.refresh(&mut state, agent);
    }
}

impl State {
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
}

impl Listed {
    /// Enters the tunnel among silent ones, or takes it out.
    fn mark_silence(&mut self, number: u64, silent: &mut Last) {
        match (self.agent.silent_since().is_some(), self.silent.is_empty()) {
            (true, true) => self.silent = silent.add(number, &self.routes),
            (false, false) => silent.forget(number, &std::mem::take(&mut self.silent)),
            (true, false) | (false, true) => {}
        }
    }
}

/// The tunnel of an agent that gets dials, if one is usable, and whether it drains: the last
/// registered that does not drain, or else the last registered.
fn best(numbers: &[u64], tunnels: &BTreeMap<u64, Listed>) -> Option<(u64, bool)> {
    let usable = numbers.iter().filter_map(|number| {
        let agent = &tunnels.get(number)?.agent;
        agent.is_usable().then(|| (*number, agent.is_draining()))
    });
    usable.max_by_key(|(number, drains)| (!drains, *number))
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
