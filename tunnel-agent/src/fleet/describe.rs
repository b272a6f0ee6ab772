//! The fleet, for people: its tunnels with the reason for their links, and why others are
//! missing.

use std::collections::HashMap;
use std::fmt::Display;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;
use tunnel::transport::Link;
use tunnel_operate::report::{Datagram, Held, NotHeld};

use super::plan::Tunnel;
use super::report::Report;
use super::{Fleet, Keeper};
use crate::cli::Transport;
use crate::course::Reason;
use crate::endpoint::Endpoint;

/// Addresses of which the last failure is remembered: more than there are at once.
const MOST_FAILURES: usize = 512;

/// The fleet at one moment.
#[derive(Debug, Default)]
pub(crate) struct Description {
    pub(crate) wanted: usize,
    pub(crate) servers: Vec<Held>,
    pub(crate) not_held: Vec<NotHeld>,
    /// Streams of all tunnels, those that are being replaced included.
    pub(crate) streams: usize,
    /// Of each tunnel on QUIC.
    pub(crate) datagrams: Vec<Datagram>,
}

/// The last failure of each address or name.
#[derive(Debug, Default)]
pub(super) struct Failures(HashMap<String, (Instant, String)>);

impl Failures {
    pub(super) fn note(&mut self, of: &impl Display, error: &impl Display, now: Instant) {
        if self.0.len() >= MOST_FAILURES {
            // Names that resolve to ever new addresses.
            self.0.clear();
        }
        self.0.insert(of.to_string(), (now, error.to_string()));
    }

    /// The failure that was noted last, with its address.
    pub(super) fn latest(&self) -> Option<String> {
        let (of, (_, error)) = self.0.iter().max_by_key(|(_, (at, _))| *at)?;
        Some(format!("{of}: {error}"))
    }

    pub(super) fn forget(&mut self, of: &impl Display) {
        self.0.remove(&of.to_string());
    }
}

impl Fleet {
    /// Asks the fleet's task. Empty when that has ended. Cancel safe.
    pub(crate) async fn describe(&self) -> Description {
        let (asker, answer) = oneshot::channel();
        if self.reports.send(Report::Describe(asker)).await.is_err() {
            return Description::default();
        }
        answer.await.unwrap_or_default()
    }
}

impl Keeper {
    /// Tells, once, that a search was in vain, and where its attempts led.
    pub(super) fn tell_of_search(&mut self) {
        let (held, wanted) = self.plan.numbers();
        let Some(met) = self.plan.searched_in_vain() else { return };
        warn!(
            "{held} of {wanted} servers, and no attempt leads to another one: {}",
            met.iter().map(|(id, count)| format!("{count} led to {id}")).collect::<Vec<_>>().join(", ")
        );
    }

    /// Tells, once, that servers differ about their number.
    pub(super) fn tell_of_counts(&mut self) {
        let told = self.plan.told();
        let (before, disagree) = (self.disagreed, told.len() > 1);
        if disagree && !before {
            let said: Vec<_> = told.iter().map(|(count, id)| format!("{id} says {count}")).collect();
            warn!(
                "servers differ about their number (--server-count), and the largest counts: {}",
                said.join(", ")
            );
        }
        self.disagreed = disagree;
    }

    /// A tunnel is over. Call it while the plan still has it.
    pub(super) fn note_lost(&mut self, serial: u64, why: &str, now: Instant) {
        if let Some(lost) = self.plan.tunnels().find(|tunnel| tunnel.serial == serial) {
            self.failures.note(lost.endpoint, &format_args!("the tunnel was lost: {why}"), now);
        }
    }

    pub(super) fn describe(&self, now: Instant) -> Description {
        let since = |at: Instant| now.saturating_duration_since(at).as_secs();
        let servers = self.plan.tunnels().map(|tunnel| Held {
            id: tunnel.server_id.to_owned(),
            address: tunnel.endpoint.to_string(),
            link: tunnel.link.label().to_owned(),
            why: self.why(&tunnel, now),
            since: since(tunnel.since),
            streams: self.running.get(&tunnel.serial).map_or(0, |session| session.streams()),
            state: tunnel.state.to_owned(),
        });
        let not_held = self.plan.gaps().into_iter().map(|gap| {
            let failure = self.failures.0.get(&gap.address);
            NotHeld {
                led_to: gap.led_to.map(str::to_owned),
                error: failure.map(|(_, error)| error.clone()),
                failed: failure.map(|(at, _)| since(*at)),
                address: gap.address,
            }
        });
        Description {
            wanted: self.plan.numbers().1,
            servers: servers.collect(),
            not_held: not_held.collect(),
            streams: self.running.values().map(|session| session.streams()).sum(),
            datagrams: self.running.values().filter_map(|of| of.datagram(self.config.datagrams)).collect(),
        }
    }

    /// The reason for the link of a tunnel that the plan has under this number.
    pub(super) fn reason(&self, serial: u64, link: Link, endpoint: &Endpoint) -> Reason {
        let is_proxied = self.tasks.connector.is_proxied(&endpoint.name, endpoint.addr.port());
        match (self.config.transport, link) {
            (Transport::Quic | Transport::H2 | Transport::Konnectivity, _) => Reason::Flag,
            (Transport::Auto, Link::H2) if is_proxied => Reason::Proxy,
            (Transport::Auto, _) => {
                let mut all = self.plan.tunnels();
                all.find(|tunnel| tunnel.serial == serial).map_or(Reason::Works, |tunnel| tunnel.why)
            }
        }
    }

    /// The reason for a tunnel's link, in words.
    fn why(&self, tunnel: &Tunnel<'_>, now: Instant) -> String {
        let again = tunnel.upgrade.map(|at| at.saturating_duration_since(now).as_secs() / 60 + 1);
        let again = again.map_or_else(String::new, |minutes| format!(", tried again in {minutes}m"));
        let failure = self.failures.0.get(&tunnel.endpoint.to_string());
        match (self.reason(tunnel.serial, tunnel.link, tunnel.endpoint), failure) {
            (Reason::Flag, _) => format!("--transport={}", self.config.transport.label()),
            (Reason::Blocked, Some((_, error))) => format!("QUIC failed: {error}{again}"),
            (why @ (Reason::Blocked | Reason::Silent(_)), _) => format!("{why}{again}"),
            (why @ (Reason::Proxy | Reason::Works | Reason::Told | Reason::Alone), _) => why.to_string(),
        }
    }
}
