//! The number of servers by two counts: the servers' own, and that of the Leases.

use crate::config::CountSource;

/// Highest count that is believed. A control plane has a few servers, and a higher count only
/// makes agents search.
const MOST: u32 = 256;

/// Both counts.
#[derive(Debug)]
pub(super) struct Demand {
    source: CountSource,
    told: Option<u32>,
    leased: Option<u32>,
}

impl Demand {
    pub(super) const fn new(source: CountSource) -> Self {
        Self { source, told: None, leased: None }
    }

    /// The largest count that a server held has told; 0 is none, and leaves the last one.
    pub(super) fn tell(&mut self, count: u32) {
        self.told = Some(count).filter(|count| *count > 0).or(self.told);
    }

    /// The number of valid Leases; `None` while it is unknown.
    pub(super) const fn lease(&mut self, count: Option<u32>) {
        self.leased = count;
    }

    /// Whether the Leases have been counted.
    pub(super) const fn is_leased(&self) -> bool {
        self.leased.is_some()
    }

    /// The number of servers to look for, at least one.
    pub(super) fn count(&self) -> usize {
        let count = match (self.source, self.leased) {
            (CountSource::Default, Some(leased)) => leased,
            (CountSource::Max, Some(leased)) => leased.max(self.told.unwrap_or(0)),
            (CountSource::Default | CountSource::Max, None) => self.told.unwrap_or(0),
        };
        count.clamp(1, MOST) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_aggregation() {
        use CountSource::{Default, Max};
        for (source, told, leased, count) in [
            (Default, None, None, 1),
            (Default, Some(0), None, 1),
            (Default, Some(3), None, 3),
            // Leases are preferred, also when they are fewer, or none.
            (Default, Some(3), Some(2), 2),
            (Default, Some(3), Some(0), 1),
            (Default, None, Some(5), 5),
            (Max, Some(3), Some(2), 3),
            (Max, Some(2), Some(3), 3),
            (Max, None, Some(0), 1),
            (Max, Some(3), None, 3),
            (Default, Some(u32::MAX), None, 256),
        ] {
            let mut demand = Demand::new(source);
            demand.tell(told.unwrap_or(0));
            demand.lease(leased);
            assert_eq!(demand.count(), count, "{source:?} {told:?} {leased:?}");
        }
    }

    #[test]
    fn the_last_number_holds_while_nobody_says_another() {
        let mut demand = Demand::new(CountSource::Default);
        for (told, count) in [(Some(3), 3), (None, 3), (Some(0), 3), (Some(2), 2)] {
            demand.tell(told.unwrap_or(0));
            assert_eq!(demand.count(), count);
        }
    }
}
