//! What connections that stand still may keep of a process' memory together.
//!
//! Each of them keeps no more than its stream's window, but there may be as many
//! as there are clients that do not read. Beyond the limit those have to go that
//! have stood still for the longest; connections that move pay nothing, and are
//! not asked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::time::Instant;

/// A limit, in bytes, for all connections of a process that stand still.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    kept: Mutex<Book>,
    /// Bytes in the book.
    gauge: IntGauge,
}

/// Who keeps how much.
#[derive(Debug, Default)]
struct Book {
    total: u64,
    /// Tells apart those that stopped at one moment.
    next: u64,
    /// The oldest first.
    entries: BTreeMap<Place, u64>,
}

/// Since when somebody stands still, and a number.
type Place = (Instant, u64);

impl Budget {
    /// A budget without a limit; `gauge` says how many bytes are kept.
    pub fn new(gauge: IntGauge) -> Self {
        Self { limit: AtomicU64::new(u64::MAX), kept: Mutex::default(), gauge }
    }

    /// Sets the limit, in bytes; 0 is none.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(if bytes == 0 { u64::MAX } else { bytes }, Ordering::Relaxed);
    }

    /// Writes down that a connection which has stood still `since` then keeps so
    /// many bytes, until what is returned is dropped.
    pub(super) fn keep(&self, since: Instant, bytes: usize) -> Kept<'_> {
        let bytes = bytes as u64;
        let mut book = self.book();
        let place = (since, book.next);
        book.next += 1;
        book.total += bytes;
        book.entries.insert(place, bytes);
        self.tell(&book);
        Kept { budget: self, place, bytes }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Whoever panicked did so between two whole changes.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, book: &Book) {
        self.gauge.set(i64::try_from(book.total).unwrap_or(i64::MAX));
    }
}

/// One connection's place in a [`Budget`].
#[derive(Debug)]
pub(super) struct Kept<'a> {
    budget: &'a Budget,
    place: Place,
    bytes: u64,
}

impl Kept<'_> {
    /// Whether this is what is written down.
    pub(super) fn is(&self, since: Instant, bytes: usize) -> bool {
        (self.place.0, self.bytes) == (since, bytes as u64)
    }

    /// Whether too much is kept, and would be without those that have stood still
    /// for longer: then this connection is to go.
    pub(super) fn must_go(&self) -> bool {
        let book = self.budget.book();
        let mut excess = book.total.saturating_sub(self.budget.limit.load(Ordering::Relaxed));
        if excess == 0 {
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
        self.budget.tell(&book);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(limit: u64) -> Budget {
        let budget = Budget::new(IntGauge::new("kept", "kept").unwrap());
        budget.set_limit(limit);
        budget
    }

    #[test]
    fn those_go_that_have_stood_still_for_the_longest_and_no_more_than_have_to() {
        let (budget, now) = (budget(100), Instant::now());
        let kept: Vec<Kept<'_>> = (0..5).map(|age| budget.keep(now - Duration::from_secs(age), 30)).collect();
        let go = |kept: &[Kept<'_>]| kept.iter().map(Kept::must_go).collect::<Vec<_>>();
        // 150 bytes: the two oldest make enough room.
        assert_eq!(go(&kept), [false, false, false, true, true]);
        let mut kept = kept;
        kept.pop();
        assert_eq!(go(&kept), [false, false, false, true], "whoever looks first goes first");
        kept.pop();
        assert_eq!((go(&kept), budget.gauge.get()), (vec![false; 3], 90));
        drop(kept);
        assert_eq!(budget.gauge.get(), 0);
    }

    #[test]
    fn no_limit_is_none() {
        let budget = budget(0);
        let kept = budget.keep(Instant::now(), usize::MAX / 2);
        assert!(!kept.must_go());
    }
}
