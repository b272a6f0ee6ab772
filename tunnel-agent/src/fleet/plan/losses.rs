//! Tunnels that end, and servers that fall silent.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;

use super::{Held, Plan};

/// Age from which a lost tunnel does not count as a failure. Lower, and a server that restarts
/// again and again is dialled at full pace; higher, and an orderly restart is waited out.
const LASTED: Duration = Duration::from_secs(10);

/// Part of the back-off after a silent loss on QUIC, which each agent notices at another time,
/// with its next heartbeat. Lower, and agents crowd; higher, and they wait for nothing.
const SPREAD_ALREADY: f64 = 0.1;

/// The consequence of a silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) enum Silenced {
    /// Another tunnel to the server is needed.
    Lost,
    /// The tunnel on h2 is used on.
    Spared,
    /// Another one has replaced it.
    Replaced,
}

impl Plan {
    /// A server is silent: its tunnel counts as lost.
    pub(in crate::fleet) fn suspect(&mut self, server_id: &str, serial: u64, now: Instant) -> Silenced {
        if let Some(spare) = self.spare_lost(server_id, serial) {
            let random = (self.random)();
            self.ways.fell_silent(&spare.endpoint, spare.link, spare.age(now), now, random);
            return Silenced::Replaced;
        }
        let Some(held) = self.held.get(server_id).filter(|held| held.serial == serial) else {
            return Silenced::Replaced;
        };
        let random = (self.random)();
        self.ways.fell_silent(&held.endpoint, held.link, held.age(now), now, random);
        if self.fall_back(server_id, serial, now) {
            return Silenced::Spared;
        }
        let Some(held) = self.take(server_id, serial, now) else { return Silenced::Replaced };
        self.suspects.insert(server_id.to_owned(), held);
        Silenced::Lost
    }

    /// The server of a suspect tunnel was heard of again. False if another one has replaced it.
    pub(in crate::fleet) fn back(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        let Some(held) = take_if(&mut self.suspects, server_id, serial) else { return false };
        if held.link == Link::Quic {
            self.ways.spoke_again(&held.endpoint, now);
        }
        self.endpoints.list(&self.entries, now);
        self.endpoints.gained(&held.endpoint, server_id);
        self.held.insert(server_id.to_owned(), held);
        self.listen();
        self.search_again(now);
        true
    }

    /// Whether the server of a tunnel drains.
    pub(in crate::fleet) fn is_draining(&self, server_id: &str, serial: u64) -> bool {
        self.held.get(server_id).is_some_and(|held| held.serial == serial && held.draining)
    }

    /// A tunnel is over. False if another one has replaced it, or does now.
    pub(in crate::fleet) fn ended(&mut self, server_id: &str, serial: u64, now: Instant) -> bool {
        if self.spare_lost(server_id, serial).is_some() || self.fall_back(server_id, serial, now) {
            return false;
        }
        // A suspect counts as lost already.
        take_if(&mut self.suspects, server_id, serial).is_some()
            || self.take(server_id, serial, now).is_some()
    }

    /// Takes a tunnel out of those held, if it is there.
    fn take(&mut self, server_id: &str, serial: u64, now: Instant) -> Option<Held> {
        let held = take_if(&mut self.held, server_id, serial)?;
        self.listen();
        let lasted = held.age(now) >= LASTED;
        self.entries.doubt(&held.endpoint);
        self.endpoints.lost(&held.endpoint);
        let (pace, random) = (self.manner.pace, &mut self.random);
        let part = if held.link == Link::Quic && !held.draining { SPREAD_ALREADY } else { 1.0 };
        let next = |failures| now + pace.backoff(failures, random()).mul_f64(part);
        self.endpoints.unheld(server_id, &held.endpoint, lasted, next);
        self.endpoints.list(&self.entries, now);
        self.hurry(now);
        Some(held)
    }
}

impl Held {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// Takes the tunnel to a server out of `tunnels`, if it has this number.
fn take_if(tunnels: &mut BTreeMap<String, Held>, server_id: &str, serial: u64) -> Option<Held> {
    if tunnels.get(server_id)?.serial == serial { tunnels.remove(server_id) } else { None }
}
