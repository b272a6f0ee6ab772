//! The plan, for people.

use tokio::time::Instant;
use tunnel::transport::Link;

use super::Plan;
use crate::course::Reason;
use crate::endpoint::Endpoint;

/// A tunnel of the plan.
pub(in crate::fleet) struct Tunnel<'a> {
    pub(in crate::fleet) server_id: &'a str,
    pub(in crate::fleet) endpoint: &'a Endpoint,
    pub(in crate::fleet) serial: u64,
    pub(in crate::fleet) since: Instant,
    pub(in crate::fleet) link: Link,
    pub(in crate::fleet) state: &'static str,
    /// Why it has its link, where the agent chooses.
    pub(in crate::fleet) why: Reason,
    /// When the next attempt to move it to the other link is due.
    pub(in crate::fleet) upgrade: Option<Instant>,
}

/// An address that should hold a tunnel and does not.
pub(in crate::fleet) struct Gap<'a> {
    pub(in crate::fleet) address: String,
    /// The server to which it last led.
    pub(in crate::fleet) led_to: Option<&'a str>,
}

impl Plan {
    /// All tunnels, those to silent servers included.
    pub(in crate::fleet) fn tunnels(&self) -> impl Iterator<Item = Tunnel<'_>> {
        let state = |draining| if draining { "draining" } else { "connected" };
        let held = self.held.iter().map(move |(id, held)| (id, held, state(held.draining)));
        let silent = self.suspects.iter().map(|(id, held)| (id, held, "silent"));
        held.chain(silent).map(|(id, held, state)| Tunnel {
            server_id: id,
            endpoint: &held.endpoint,
            serial: held.serial,
            since: held.since,
            link: held.link,
            state,
            why: held.why,
            upgrade: held.upgrade,
        })
    }

    /// Addresses that should hold a tunnel, and names that could not be resolved.
    pub(in crate::fleet) fn gaps(&self) -> Vec<Gap<'_>> {
        let unresolved = self.entries.iter().filter(|entry| entry.is_unresolved());
        let names = unresolved.map(|entry| Gap { address: entry.server().to_string(), led_to: None });
        let missing = self.endpoints.iter().filter(|endpoint| self.is_missing(endpoint));
        let addresses = missing
            .map(|endpoint| Gap { address: endpoint.to_string(), led_to: self.endpoints.leads(endpoint) });
        names.chain(addresses).collect()
    }
}
