//! The times at which each agent was heard. Canaries and dials enter them, and an event waits with them until all is calm.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::world::AGENTS;

/// Time between two looks of one who waits for calm.
const LOOK: Duration = Duration::from_millis(50);

/// A figure for each agent.
pub(crate) type PerAgent<T> = [T; AGENTS.len()];

#[derive(Debug)]
pub(crate) struct Board(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When each canary was last heard; `None` for one that does not sing.
    heard: Vec<Option<Instant>>,
    /// When the latest dial began that worked.
    works: PerAgent<Option<Instant>>,
    /// The longest silence of a canary.
    gaps: PerAgent<Duration>,
}

/// The agent of a canary.
pub(crate) const fn agent_of(canary: usize) -> usize {
    canary % AGENTS.len()
}

impl Board {
    pub(crate) fn new(canaries: usize) -> Self {
        Self(Mutex::new(State {
            heard: vec![None; canaries],
            works: Default::default(),
            gaps: Default::default(),
        }))
    }

    pub(crate) fn canaries(&self) -> usize {
        self.lock().heard.len()
    }

    pub(crate) fn heard(&self, canary: usize, gap: Duration) {
        let mut state = self.lock();
        state.heard[canary] = Some(Instant::now());
        let longest = &mut state.gaps[agent_of(canary)];
        *longest = gap.max(*longest);
    }

    pub(crate) fn ended(&self, canary: usize) {
        self.lock().heard[canary] = None;
    }

    /// A dial that began then has worked.
    pub(crate) fn works(&self, agent: usize, began: Instant) {
        let latest = &mut self.lock().works[agent];
        *latest = (*latest).max(Some(began));
    }

    /// Canaries that sing.
    pub(crate) fn alive(&self) -> PerAgent<usize> {
        self.count(|heard| heard.is_some())
    }

    /// Canaries that have not been heard since.
    pub(crate) fn silent(&self, since: Instant) -> PerAgent<usize> {
        self.count(|heard| heard < Some(since))
    }

    fn count(&self, is: impl Fn(Option<Instant>) -> bool) -> PerAgent<usize> {
        let mut counts = PerAgent::default();
        for (canary, heard) in self.lock().heard.iter().enumerate() {
            counts[agent_of(canary)] += usize::from(is(*heard));
        }
        counts
    }

    pub(crate) fn forget_gaps(&self) {
        self.lock().gaps = Default::default();
    }

    pub(crate) fn gaps(&self) -> PerAgent<Duration> {
        self.lock().gaps
    }

    /// Waits until a dial to every agent has begun since then and worked, and every canary was heard. False at the
    /// limit.
    pub(crate) async fn calm(&self, since: Instant, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let works = self.lock().works.iter().all(|began| *began >= Some(since));
            if works && self.silent(since).iter().sum::<usize>() == 0 {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(LOOK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_calm_once_all_are_heard_and_all_agents_answer() {
        let (board, limit) = (Board::new(AGENTS.len()), Duration::from_secs(1));
        let since = Instant::now();
        for agent in 0..AGENTS.len() {
            assert!(!board.calm(since, limit).await, "agent {agent} is not heard");
            board.heard(agent, Duration::from_secs(agent as u64));
            assert!(!board.calm(since, limit).await, "agent {agent} does not answer");
            board.works(agent, since);
        }
        assert!(board.calm(since, limit).await);
        assert!(!board.calm(Instant::now(), limit).await, "all that is past");
        board.ended(1);
        assert_eq!(
            (board.alive()[1], board.silent(since)[1], board.gaps()[2]),
            (0, 1, Duration::from_secs(2))
        );
    }
}
