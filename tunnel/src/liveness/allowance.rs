//! Bounds the messages of a peer on its control stream: a value, without timers.

use std::time::Duration;

use tokio::time::Instant;

use crate::messages::ControlError;

/// Messages that may come at once. After the longest blackout an agent with streams has 140
/// heartbeats under way. Fewer end its tunnel then; more is work that a peer can cause at once.
const BURST: u32 = 512;

/// The time after which a peer may send one more. Heartbeats come twice a second. A longer time
/// ends tunnels for a few pings of a search; a shorter one lets a peer use a core.
const EACH: Duration = Duration::from_millis(32);

/// The messages that a peer may send.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    /// The time up to which messages were added.
    added: Instant,
}

impl Allowance {
    pub(super) const fn new(now: Instant) -> Self {
        Self { left: BURST, added: now }
    }

    /// Takes a message that came at `now`.
    ///
    /// # Errors
    /// When the peer has sent too many.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), ControlError> {
        if self.left == 0 {
            let times = now.saturating_duration_since(self.added).as_nanos() / EACH.as_nanos();
            let times = u32::try_from(times).unwrap_or(u32::MAX);
            self.left = times.min(BURST);
            self.added = if self.left == BURST { now } else { self.added + EACH * self.left };
        }
        self.left = self.left.checked_sub(1).ok_or(ControlError::Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_of_a_blackout_may_come_at_once_and_a_flood_may_not() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        assert!((0..BURST).all(|_| allowance.take(now).is_ok()));
        assert_eq!(allowance.take(now), Err(ControlError::Flood));
        assert!(allowance.take(now + EACH).is_ok());
        assert_eq!(allowance.take(now + EACH), Err(ControlError::Flood));
        let later = now + EACH * (BURST + 100);
        assert!((0..BURST).all(|_| allowance.take(later).is_ok()), "silence adds up to a burst");
        assert_eq!(allowance.take(later), Err(ControlError::Flood));
    }

    #[test]
    fn whoever_keeps_to_the_pace_may_go_on_for_ever() {
        let (now, mut allowance) = (Instant::now(), Allowance::new(Instant::now()));
        assert!((0..10 * BURST).all(|number| allowance.take(now + EACH * number).is_ok()));
    }
}
