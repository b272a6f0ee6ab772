//! The memory that the connections of a process which stand still may keep together.
//!
//! Each keeps at most its stream's window, and clients that do not read can open any
//! number of connections. Beyond the limit those are closed that have stood still
//! for the longest. Connections that move cost nothing here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// A limit, in bytes, for all connections of a process that stand still.
#[derive(Debug, Default)]
pub struct Budget {
    /// 0 is none.
    limit: AtomicU64,
    kept: Mutex<Book>,
}

/// The connections that stand still, and their bytes.
#[derive(Debug, Default)]
struct Book {
    total: u64,
    /// Tells apart connections that stopped at one moment.
    next: u64,
    /// The oldest first.
    entries: BTreeMap<Place, u64>,
}

/// Since when a connection stands still, and its number.
type Place = (Instant, u64);

impl Budget {
    /// Sets the limit, in bytes; 0, which it is at first, is none.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that connections keep which have stood still for 5 s or longer.
    pub fn kept(&self) -> u64 {
        self.book().total
    }

    /// Enters a connection that has stood still `since` then and keeps so many
    /// bytes, until the entry is dropped.
    pub(super) fn keep(&self, since: Instant, bytes: usize) -> Kept<'_> {
        let bytes = bytes as u64;
        let mut book = self.book();
        let place = (since, book.next);
        book.next += 1;
        book.total += bytes;
        book.entries.insert(place, bytes);
        Kept { budget: self, place, bytes }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // No change of the book can panic half way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's entry in a [`Budget`].
#[derive(Debug)]
pub(super) struct Kept<'a> {
    budget: &'a Budget,
    place: Place,
    bytes: u64,
}

impl Kept<'_> {
    /// Whether the entry says this.
    pub(super) fn is(&self, since: Instant, bytes: usize) -> bool {
        (self.place.0, self.bytes) == (since, bytes as u64)
    }

    /// Whether this connection has to be closed: the limit is exceeded, and closing
    /// all that have stood still for longer would not be enough.
    pub(super) fn must_go(&self) -> bool {
        let book = self.budget.book();
        let limit = self.budget.limit.load(Ordering::Relaxed);
        let mut excess = book.total.saturating_sub(limit);
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

impl Drop for Kept<'_> {
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
    fn those_go_that_have_stood_still_for_the_longest_and_no_more_than_have_to() {
        let (budget, now) = (Budget::default(), Instant::now());
        budget.set_limit(100);
        let kept: Vec<Kept<'_>> = (0..5).map(|age| budget.keep(now - Duration::from_secs(age), 30)).collect();
        let go = |kept: &[Kept<'_>]| kept.iter().map(Kept::must_go).collect::<Vec<_>>();
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
        let kept = budget.keep(Instant::now(), usize::MAX / 2);
        assert!(!kept.must_go());
    }
}
