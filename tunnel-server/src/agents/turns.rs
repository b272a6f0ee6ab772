//! A limit for each source of agents.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tunnel::listen::source;

/// Reviews of tokens from one source that are under way or wait. The API is asked five times a second
/// by default and waited for four seconds. With fewer, a fleet behind one load balancer leaves
/// reviews unused; with more, one stranger keeps all others waiting.
const MOST: usize = 8;

/// Counts what each source has under way. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    source: IpAddr,
}

impl Turns {
    /// A turn for a peer, unless its source has too many.
    pub(super) fn take(&self, from: IpAddr) -> Option<Turn> {
        let source = source(from);
        let mut taken = self.lock();
        let count = taken.entry(source).or_default();
        if *count == MOST {
            return None;
        }
        *count += 1;
        Some(Turn { turns: self.clone(), source })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.lock();
        if let Some(count) = taken.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_does_not_take_the_turns_of_another() {
        let (turns, one, other) =
            (Turns::default(), "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let mut taken: Vec<_> = (0..100).filter_map(|_| turns.take(one)).collect();
        assert_eq!(taken.len(), MOST);
        assert!(turns.take(other).is_some());
        taken.pop();
        assert!(turns.take(one).is_some());
        drop(taken);
        assert!(turns.lock().is_empty());
    }
}
