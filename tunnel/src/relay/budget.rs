//! The memory that the stalled connections of a process may hold together.
//!
//! Each holds at most its stream's flow-control window, but clients that do not read can
//! open any number of connections. Beyond the limit, the connections stalled for the
//! longest are closed. Connections that move cost nothing here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Bytes that may wait for the rest of their message for as long as the peer likes. With fewer, reads
/// that end within an ordinary message take a timer, and slow readers of others end its connection;
/// with more, idle peers hold as much.
pub(crate) const SMALL_PART: usize = 64 * 1024;

/// A limit, in bytes, for all stalled connections of a process.
#[derive(Debug, Default)]
pub struct Budget {
    /// 0 is no limit.
    limit: AtomicU64,
    /// Bytes of messages of which only a part has come.
    parts: AtomicU64,
    held: Mutex<Book>,
}

/// The stalled connections and their bytes.
#[derive(Debug, Default)]
struct Book {
    total: u64,
    /// Tells apart connections that stalled at one moment.
    next: u64,
    /// The oldest first.
    entries: BTreeMap<Place, u64>,
}

/// When a connection stalled, and its number.
type Place = (Instant, u64);

impl Budget {
    /// Sets the limit, in bytes; 0, the default, is no limit.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes held by connections that have been stalled for 5 s or longer, and by messages of which
    /// only a part has come.
    pub fn kept(&self) -> u64 {
        self.book().total + self.parts.load(Ordering::Relaxed)
    }

    /// Counts a part of a message, which had `before` bytes. False if it has grown beyond the limit: a
    /// small one only where parts alone exceed it, because the stalled go before those that move.
    pub(crate) fn count(&self, before: usize, now: usize) -> bool {
        if now <= before {
            self.parts.fetch_sub((before - now) as u64, Ordering::Relaxed);
            return true;
        }
        let grown = (now - before) as u64;
        let parts = self.parts.fetch_add(grown, Ordering::Relaxed) + grown;
        let limit = self.limit.load(Ordering::Relaxed);
        limit == 0 || parts <= limit && (now <= SMALL_PART || self.kept() <= limit)
    }

    /// Enters a connection that stalled at `since`, until the entry is dropped.
    pub(super) fn hold(&self, since: Instant, bytes: usize) -> Held<'_> {
        let bytes = bytes as u64;
        let mut book = self.book();
        let place = (since, book.next);
        book.next += 1;
        book.total += bytes;
        book.entries.insert(place, bytes);
        Held { budget: self, place, bytes }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // No change of the book can panic half way.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's entry in a [`Budget`].
#[derive(Debug)]
pub(super) struct Held<'a> {
    budget: &'a Budget,
    place: Place,
    bytes: u64,
}

impl Held<'_> {
    /// Whether the entry has these values.
    pub(super) fn is(&self, since: Instant, bytes: usize) -> bool {
        (self.place.0, self.bytes) == (since, bytes as u64)
    }

    /// Whether this connection has to be closed: the limit is exceeded, and closing all
    /// that stalled earlier would not be enough.
    pub(super) fn must_go(&self) -> bool {
        let book = self.budget.book();
        let limit = self.budget.limit.load(Ordering::Relaxed);
        let parts = self.budget.parts.load(Ordering::Relaxed);
        let mut excess = (book.total + parts).saturating_sub(limit);
        if limit == 0 || excess == 0 {
            return false;
        }
        for bytes in book.entries.range(..self.place).map(|(_, bytes)| *bytes) {
            if bytes >= excess {
                return false;
            }
            excess -= bytes;
        }
        true
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut book = self.budget.book();
        book.entries.remove(&self.place);
        book.total -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn slow_readers_end_no_message_of_ordinary_size() {
        let budget = Budget::default();
        budget.set_limit(200_000);
        let stalled = budget.hold(Instant::now(), 190_000);
        assert!(budget.count(0, SMALL_PART) && stalled.must_go(), "the stalled one goes");
        assert!(!budget.count(0, SMALL_PART + 1), "a large one waits for nobody");
        budget.count(SMALL_PART + 1, 0);
        drop(stalled);
        assert!(budget.count(0, SMALL_PART) && budget.count(0, SMALL_PART));
        assert!(!budget.count(0, SMALL_PART), "small ones together exceed the limit");
    }

    #[test]
    fn those_go_that_have_stood_still_for_the_longest_and_no_more_than_have_to() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.set_limit(100);
        let kept: Vec<Held<'_>> = (0..5).map(|age| budget.hold(now - Duration::from_secs(age), 30)).collect();
        let go = |kept: &[Held<'_>]| kept.iter().map(Held::must_go).collect::<Vec<_>>();
        // 150 bytes: the two oldest make enough room.
        assert_eq!(go(&kept), [false, false, false, true, true]);
        let mut kept = kept;
        kept.pop();
        assert_eq!(go(&kept), [false, false, false, true], "whoever looks first goes first");
        kept.pop();
        assert_eq!((go(&kept), budget.kept()), (vec![false; 3], 90));
        drop(kept);
        assert_eq!(budget.kept(), 0);
    }

    #[test]
    fn no_limit_is_none() {
        let budget = Budget::default();
        let kept = budget.hold(Instant::now(), usize::MAX / 2);
        assert!(!kept.must_go());
    }
}
