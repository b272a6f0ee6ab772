//! Tunnels that another one to the same server is to replace: on QUIC, or with other credentials.

use tokio::time::Instant;

use super::{Attempt, Held, Pace, Plan, Purpose};

impl Purpose {
    /// Whether a new tunnel to this server is to replace the one that is held.
    pub(in crate::fleet) fn replaces(&self, server_id: &str) -> bool {
        self.replaced().is_some_and(|id| id == server_id)
    }

    /// The server whose tunnel is to be replaced.
    pub(in crate::fleet) fn replaced(&self) -> Option<&String> {
        match self {
            Self::Need | Self::Search => None,
            Self::Upgrade(id) | Self::Renew(id) => Some(id),
        }
    }
}

impl Plan {
    /// The tunnel with this number is to be replaced from now on. Returns the server's id when this
    /// is new.
    pub(in crate::fleet) fn replace(&mut self, serial: u64, now: Instant) -> Option<&str> {
        let mut all = self.held.iter_mut();
        let (id, held) = all.find(|(_, held)| held.serial == serial && held.renew.is_none())?;
        // Spread, because a server may ask all agents at one time.
        held.renew = Some(now + self.manner.pace.backoff(0, (self.random)()));
        Some(id.as_str())
    }

    /// The bookkeeping of an attempt at a replacement that is over.
    pub(super) fn tried(&mut self, purpose: &Purpose, now: Instant) {
        match purpose {
            Purpose::Need | Purpose::Search => {}
            Purpose::Upgrade(id) => {
                let next = now + Pace::upgrade((self.random)());
                if let Some(held) = self.held.get_mut(id) {
                    // Another tunnel, which needs no upgrade, may have replaced it.
                    held.upgrade = held.upgrade.map(|_| next);
                }
            }
            Purpose::Renew(id) => {
                let next = now + self.manner.pace.steady((self.random)());
                if let Some(held) = self.held.get_mut(id) {
                    held.renew = held.renew.map(|_| next);
                }
            }
        }
    }

    /// The dials for replacements, with the times from which they are due.
    pub(super) fn replacements(&self) -> impl Iterator<Item = (Instant, Attempt)> {
        let usable =
            move |(_, held): &(&String, &Held)| !held.draining && self.endpoints.is_idle(&held.endpoint);
        self.held.iter().filter(usable).flat_map(|(id, held)| {
            let attempt = |purpose| Attempt { purpose, endpoint: held.endpoint.clone() };
            let upgrade = held.upgrade.map(|at| (at, attempt(Purpose::Upgrade(id.clone()))));
            let renewal = held.renew.map(|at| (at, attempt(Purpose::Renew(id.clone()))));
            // One attempt at a time on an endpoint; credentials end, and the link does not.
            renewal.or(upgrade)
        })
    }
}
