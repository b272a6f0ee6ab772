//! A tunnel on QUIC beside the one on h2 that it is to replace.
//!
//! A handshake proves little. The tunnel on h2 stays until the one on QUIC has carried
//! heartbeats for a while, and the server dials on h2 until then. If QUIC falls silent, no dial is
//! lost and no new tunnel has to be made.

use std::time::Duration;

use tokio::time::Instant;

use super::{Held, Pace, Plan};

/// Time for which the tunnel on h2 stays. Routers that drop a flow after 40 packets show it to an
/// idle agent in one minute, and a silence shows 15 s later. Longer costs the memory of a second
/// tunnel for longer.
const TRIAL: Duration = Duration::from_secs(120);

/// The trial of a tunnel on QUIC.
#[derive(Debug)]
pub(super) struct Trial {
    /// The tunnel on h2.
    pub(super) spare: Held,
    until: Instant,
}

impl Trial {
    pub(super) fn new(spare: Held, now: Instant) -> Self {
        Self { spare, until: now + TRIAL }
    }
}

impl Plan {
    /// When the next trial ends.
    pub(super) fn trials_end(&self) -> Option<Instant> {
        self.held.values().filter_map(|held| Some(held.trial.as_ref()?.until)).min()
    }

    /// Ends trials that were passed.
    pub(super) fn end_trials(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            if let Some(trial) = held.trial.take_if(|trial| trial.until <= now) {
                self.retired.push(trial.spare.serial);
                self.endpoints.lost(&trial.spare.endpoint);
            }
        }
    }

    /// A tunnel is over, or silent. If it was on trial, the tunnel on h2 is used on, and true is
    /// returned.
    pub(super) fn fall_back(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        let Some(held) = self.held.get_mut(server_id).filter(|held| held.serial == serial) else {
            return false;
        };
        let Some(trial) = held.trial.take() else { return false };
        let failed = std::mem::replace(held, trial.spare);
        let shunned = self.ways.shunned(&held.endpoint, now);
        held.upgrade = shunned.or_else(|| Some(now + Pace::upgrade((self.random)())));
        held.why = self.ways.reason(&held.endpoint, held.link, now);
        held.draining |= failed.draining;
        self.listen();
        self.endpoints.lost(&failed.endpoint);
        self.endpoints.list(&self.entries, now);
        self.retired.push(serial);
        true
    }

    /// A tunnel on h2 that stood by is over, or silent.
    pub(super) fn spare_lost(&mut self, server_id: &str, serial: u64) -> Option<Held> {
        let held = self.held.get_mut(server_id)?;
        let trial = held.trial.take_if(|trial| trial.spare.serial == serial)?;
        self.endpoints.lost(&trial.spare.endpoint);
        Some(trial.spare)
    }
}
