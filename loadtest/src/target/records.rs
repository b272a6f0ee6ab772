//! The state that connections share.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::groups::Groups;

/// Most deposits whose tally nobody has asked for; a bound for memory.
const MAX_DEPOSITS: usize = 100_000;

#[derive(Default)]
pub(super) struct Records {
    pub(super) deposits: Deposits,
    pub(super) groups: Groups,
}

/// Tallies of ended deposits, by their tokens.
#[derive(Default)]
pub(super) struct Deposits {
    ended: Mutex<HashMap<u64, String>>,
    more: Notify,
}

impl Deposits {
    pub(super) fn put(&self, token: u64, tally: String) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() < MAX_DEPOSITS {
            ended.insert(token, tally);
        }
        drop(ended);
        self.more.notify_waiters();
    }

    /// Takes out a tally once there is one. Cancel safe.
    pub(super) async fn take(&self, token: u64) -> String {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            // Registered before the look, or a deposit in between would be missed.
            more.as_mut().enable();
            let found = self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
            if let Some(tally) = found {
                return tally;
            }
            more.await;
        }
    }
}
