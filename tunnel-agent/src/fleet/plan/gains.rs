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
        let (id, h2_only) = (&welcome.server_id, welcome.transport == H2_ONLY);
        if self.manner.upgrades {
            self.ways.told(endpoint, h2_only, now);
        }
        let is_upgrade = matches!(purpose, Purpose::Upgrade(_));
        let wanted = if h2_only { Link::H2 } else { Link::Quic };
        if self.held.contains_key(id) && !(purpose.replaces(id) && (link == wanted || !is_upgrade)) {
            self.duplicate(attempt, id, now);
            return Verdict::Duplicate;
        }
        self.settle(attempt, now);
        if self.held.is_empty() {
            // The network may be back.
            let (pace, random) = (self.manner.pace, &mut self.random);
            self.endpoints.forgive(|| now + pace.backoff(0, random()));
        }
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
            told: welcome.server_count,
            draining: false,
            upgrade: self.next_move(attempt, link, h2_only, now),
            renew: None,
            trial,
        };
        self.held.insert(id.clone(), held);
        self.listen();
        self.endpoints.gained(endpoint, id);
        self.endpoints.list(&self.entries, now);
        self.search_again(now);
        self.search.begin_anew();
        Verdict::Keep { serial: self.serial, replaces }
    }

    /// When a new tunnel is to be moved to the other link, if it is.
    fn next_move(
        &mut self,
        Attempt { endpoint, .. }: &Attempt,
        link: Link,
        h2_only: bool,
        now: Instant,
    ) -> Option<Instant> {
        if !self.manner.upgrades {
            return None;
        }
        let random = (self.random)();
        match link {
            // Spread, because a server tells all agents.
            Link::Quic => h2_only.then(|| now + self.manner.pace.steady(random)),
            Link::H2 if h2_only => None,
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
