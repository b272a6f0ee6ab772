//! The move of a tunnel from h2 to QUIC.

use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;

use super::Plan;

/// While on h2, QUIC is tried again this often (with `--transport=auto`).
const UPGRADE: Duration = Duration::from_secs(600);

impl Plan {
    pub(super) fn next_upgrade(&mut self, link: Link, now: Instant) -> Option<Instant> {
        let wanted = self.manner.upgrades && link == Link::H2;
        wanted.then(|| self.later(now))
    }

    /// When an upgrade is tried again.
    fn later(&mut self, now: Instant) -> Instant {
        now + UPGRADE.mul_f64(0.9 + 0.2 * (self.random)())
    }

    pub(super) fn postpone_upgrade(&mut self, server_id: &str, now: Instant) {
        let later = self.later(now);
        if let Some(held) = self.held.get_mut(server_id) {
            // Another tunnel may be there by now, which needs none.
            held.upgrade = held.upgrade.map(|_| later);
        }
    }
}
