//! New tunnels: which are used, and what they replace.

use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_proto::message::{H2_ONLY, Welcome};

use super::{Attempt, Held, Pace, Plan, Purpose, Trial, Verdict};

impl Plan {
    /// An attempt led to a server that admitted the agent.
    pub(in crate::fleet) fn connected(
        &mut self,
        attempt: &Attempt,
        welcome: &Welcome,
        link: Link,
        now: Instant,
    ) -> Verdict {
        let Attempt { purpose, endpoint } = attempt;
        let (id, told) = (&welcome.server_id, welcome.transport == H2_ONLY);
        if self.manner.upgrades {
            self.ways.told(endpoint, told, now);
        }
        let is_upgrade = matches!(purpose, Purpose::Upgrade(_));
        let wanted = if told { Link::H2 } else { Link::Quic };
        if self.held.contains_key(id) && !(purpose.replaces(id) && (link == wanted || !is_upgrade)) {
            self.duplicate(attempt, id, now);
            return Verdict::Duplicate;
        }
        self.settle(attempt, now);
        self.demand.tell(welcome.server_count);
        let mut replaces = self.suspects.remove(id).map(|suspect| suspect.serial);
        let trial = match self.held.remove(id) {
            Some(old) if is_upgrade && link == Link::Quic => Some(Box::new(Trial::new(old, now))),
            Some(old) => {
                replaces = Some(old.serial);
                self.forget(old);
                None
            }
            None => None,
        };
        self.serial += 1;
        let held = Held {
            endpoint: endpoint.clone(),
            serial: self.serial,
            since: now,
            link,
            why: self.ways.reason(endpoint, link, now),
            draining: false,
            upgrade: self.next_move(attempt, link, told, now),
            renew: None,
            trial,
        };
        self.held.insert(id.clone(), held);
        self.endpoints.gained(endpoint, id);
        self.endpoints.list(&self.entries, now);
        self.search_again(now);
        self.search.fruitless = 0;
        Verdict::Keep { serial: self.serial, replaces }
    }

    /// When a new tunnel is to be moved to the other link, if it is.
    fn next_move(
        &mut self,
        Attempt { endpoint, .. }: &Attempt,
        link: Link,
        told: bool,
        now: Instant,
    ) -> Option<Instant> {
        if !self.manner.upgrades {
            return None;
        }
        let random = (self.random)();
        match link {
            // Spread, because a server tells all agents.
            Link::Quic => told.then(|| now + self.manner.pace.steady(random)),
            Link::H2 if told => None,
            Link::H2 => self.ways.shunned(endpoint, now).or(Some(now + Pace::upgrade(random))),
            Link::Konnectivity => None,
        }
    }

    /// The bookkeeping for a tunnel that is not held any more, and for its spare one.
    pub(super) fn forget(&mut self, held: Held) {
        self.endpoints.lost(&held.endpoint);
        if let Some(trial) = held.trial {
            self.retired.push(trial.spare.serial);
            self.endpoints.lost(&trial.spare.endpoint);
        }
    }
}
