//! The events of the server that metrics count.
//!
//! Each event is one method, which counts it in two sets of metrics: ours, and Konnectivity's for
//! existing dashboards and alerts. docs/METRICS.md lists both.

mod backends;
mod konnectivity;
mod ours;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Registry, Result};
use tunnel::listen::Observer;
use tunnel::packets::Counters;
use tunnel::relay::{Ending, Meter};
use tunnel::transport::Link;
use tunnel_kube::leases::{LeaseEvent, Outcome};
use tunnel_kube::review::ReviewEvent;
use tunnel_program::metering::{Described, Maker, Waits};
use tunnel_program::renewal::RenewalMetrics;

use crate::dial::error::{DialError, GivenUp};
pub use backends::Backends;
use konnectivity::{Konnectivity, reason, reason_given_up};
use ours::Ours;
pub(crate) use tunnel_program::metering::{GaugeGuard, TwinGuard};

/// The server's metrics; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    ours: Arc<Ours>,
    theirs: Arc<Konnectivity>,
    /// By [`ClientKind`] and [`Link`].
    meters: Arc<[[OnceLock<Meter>; Link::ALL.len()]; 2]>,
}

/// The protocol of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// HTTP CONNECT.
    Connect,
    /// Konnectivity's gRPC.
    Grpc,
}

impl ClientKind {
    /// The name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Grpc => "grpc",
        }
    }
}

/// Durations of a dial that connected.
#[derive(Debug, Clone, Copy)]
pub struct DialTimes {
    /// From the choice of the agent to the open stream.
    pub open: Duration,
    /// From there to the agent's answer.
    pub answer: Duration,
    /// The whole dial, with an agent that failed before.
    pub total: Duration,
}

/// Durations of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    /// Since the client's request.
    pub asked: Duration,
    /// Since the answer to the client.
    pub established: Duration,
}

impl Metrics {
    /// Registers all metrics but [`Backends`], which needs the agents.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self::described(registry)?.0)
    }

    /// As [`Metrics::register`], with the description of all metrics.
    ///
    /// # Errors
    /// As [`Metrics::register`].
    pub fn described(registry: &Registry) -> Result<(Self, Vec<Described>)> {
        let mut ours = Maker::new(registry, "tunnel_server");
        let mut theirs = Maker::new(registry, konnectivity::PREFIX);
        let made = Ours::make(&mut ours)?;
        let metrics = Self {
            theirs: Arc::new(Konnectivity::make(&mut theirs, &made.traffic.budget())?),
            ours: Arc::new(made),
            meters: Arc::default(),
        };
        for kind in [ClientKind::Connect, ClientKind::Grpc] {
            metrics.ours.connections.with_label_values(&[kind.label()]).set(0);
        }
        Ok((metrics, [ours.into_made(), theirs.into_made(), Backends::described()].concat()))
    }

    /// Sets the limit of the bytes of all stalled connections. Without a call there is none.
    pub(crate) fn limit_stalled(&self, bytes: u64) {
        self.ours.traffic.limit_stalled(bytes);
    }

    /// Directions of connections whose receiver has taken nothing for ten seconds.
    pub fn stalled(&self) -> u64 {
        self.ours.traffic.stalled()
    }

    /// The metrics of files that are read again.
    pub(crate) fn renewal(&self) -> RenewalMetrics {
        self.ours.renewal.clone()
    }

    /// Counts a tunnel that ends with its agent's credential.
    pub(crate) fn tunnel_lapsed(&self, reason: &str) {
        self.ours.peers.lapsed.with_label_values(&[reason]).inc();
    }

    /// Counts the changes of a Unix socket's file.
    pub(crate) fn socket(&self, name: &'static str) -> Observer {
        self.ours.sockets.observer(name)
    }

    /// Looks at the receive buffer of UDP sockets.
    pub(crate) fn look_at_udp(&self) {
        self.ours.sockets.look_at_udp();
    }

    /// Counts a failed accept.
    pub(crate) fn accept_failed(&self, listener: &str) {
        self.ours.peers.accept_errors.with_label_values(&[listener]).inc();
    }

    /// Counts a client that did not get as far as a dial.
    pub(crate) fn bad_client(&self, reason: &str) {
        self.ours.peers.bad_clients.with_label_values(&[reason]).inc();
    }

    /// Counts a gRPC client's call, until the guard is dropped.
    pub(crate) fn call(&self) -> GaugeGuard {
        GaugeGuard::new(self.theirs.calls_of_clients.clone())
    }

    /// Counts a client's connection, its dial included, until the guard is dropped.
    pub(crate) fn connection(&self, kind: ClientKind) -> TwinGuard {
        let theirs = match kind {
            ClientKind::Connect => Some(self.theirs.http_connections.clone()),
            // Konnectivity counts calls instead, from their beginning.
            ClientKind::Grpc => None,
        };
        TwinGuard::new(self.ours.connections.with_label_values(&[kind.label()]), theirs)
    }

    /// Counts a dial that waits for an agent's answer, until the guard is dropped.
    pub fn pending_dial(&self) -> TwinGuard {
        TwinGuard::new(self.ours.dials.pending.clone(), Some(self.theirs.pending_dials.clone()))
    }

    /// Counts a stream to an agent, until the guard is dropped.
    pub(crate) fn stream(&self, link: Link) -> GaugeGuard {
        self.ours.streams_opened.with_label_values(&[link.label()]).inc();
        GaugeGuard::new(self.ours.streams.with_label_values(&[link.label()]))
    }

    /// Counts a failed dial that is tried again on another agent.
    pub(crate) fn dial_retried(&self, error: &DialError) {
        self.ours.dials.retries.inc();
        self.dial_failed(error);
    }

    /// Counts a dial that waited for an agent in place of one that had just left.
    pub(crate) fn dial_waited(&self, served: bool) {
        self.ours.dials.waits.with_label_values(&[if served { "served" } else { "in_vain" }]).inc();
    }

    /// Counts a failed dial. Konnectivity's series appears with the first one.
    pub fn dial_failed(&self, error: &DialError) {
        self.theirs.dial_failures.with_label_values(&[reason(error)]).inc();
    }

    /// Counts a dial that the policy refused. The rules of the file bound the label.
    pub(crate) fn denied(&self, rule: &str) {
        self.ours.dials.denied.with_label_values(&[rule]).inc();
    }

    /// Counts a dial that was given up.
    pub(crate) fn dial_given_up(&self, why: GivenUp) {
        if let Some(reason) = reason_given_up(why) {
            self.theirs.dial_failures.with_label_values(&[reason]).inc();
        }
    }

    /// Counts and times a dial that connected.
    pub fn dialed(&self, link: Link, times: &DialTimes) {
        let (ours, total) = (&self.ours.dials, times.total.as_secs_f64());
        ours.seconds.with_label_values(&[link.label()]).observe(total);
        for (stage, took) in [("open", times.open), ("answer", times.answer)] {
            ours.stages.with_label_values(&[link.label(), stage]).observe(took.as_secs_f64());
        }
        self.theirs.dial_duration.observe(total);
    }

    /// Counts a dial that is over, by its outcome.
    pub(crate) fn dial_ended(&self, kind: ClientKind, outcome: &str) {
        self.ours.dials.ended.with_label_values(&[kind.label(), outcome]).inc();
    }

    /// Counts an established connection, until the guard is dropped.
    pub(crate) fn established(&self) -> GaugeGuard {
        GaugeGuard::new(self.theirs.established.clone())
    }

    /// Counts an established connection that is over. Without an ending, the server stopped.
    pub fn closed(&self, kind: ClientKind, link: Link, ending: Option<&Ending>, lasted: &Lifetime) {
        let labels = |how, why| [kind.label(), link.label(), how, why];
        self.ours.traffic.closed(ending, lasted.asked, labels);
        self.theirs.connection_duration.observe(lasted.established.as_secs_f64());
    }

    /// The meter of all connections of this kind on this link.
    pub(crate) fn meter(&self, kind: ClientKind, link: Link) -> &Meter {
        self.meters[kind as usize][link as usize].get_or_init(|| {
            let theirs = &self.theirs;
            let up = match kind {
                // Konnectivity has no queue there either.
                ClientKind::Connect => Waits::default(),
                ClientKind::Grpc => Waits::new(theirs.full_of_clients.clone(), None),
            };
            let down = Waits::new(theirs.full_of_agents.clone(), Some(theirs.frontend_write.clone()));
            self.ours.traffic.meter(&[kind.label(), link.label()], up, down)
        })
    }

    /// Counters of the packets of a gRPC client.
    pub(crate) fn packets_of_client(&self) -> Counters {
        self.theirs.packets_of_clients.clone()
    }

    /// Counters of the packets of an agent that speaks Konnectivity's protocol.
    pub fn packets_of_agent(&self) -> Counters {
        self.theirs.packets_of_agents.clone()
    }

    /// Counts an agent that was not admitted.
    pub(crate) fn agent_rejected(&self, link: Link, reason: &str) {
        self.ours.peers.rejected_agents.with_label_values(&[link.label(), reason]).inc();
    }

    /// Counts a tunnel, until the guard is dropped.
    pub(crate) fn tunnel(&self, link: Link) -> TwinGuard {
        let theirs = (link == Link::Konnectivity).then(|| self.theirs.calls_of_agents.clone());
        TwinGuard::new(self.ours.peers.tunnels.with_label_values(&[link.label()]), theirs)
    }

    /// Counts a tunnel by the kind of its agent's identity, until the guard is dropped.
    pub(crate) fn identity(&self, kind: &str) -> GaugeGuard {
        GaugeGuard::new(self.ours.peers.identities.with_label_values(&[kind]))
    }

    /// Sets the mode of identities.
    pub(crate) fn identity_mode(&self, mode: &str) {
        self.ours.peers.identity_mode.with_label_values(&[mode]).set(1);
    }

    /// Counts claims of an admitted agent that are not proven.
    pub(crate) fn unproven_claims(&self, kind: &str, count: usize) {
        self.ours.peers.unproven_claims.with_label_values(&[kind]).inc_by(count as u64);
    }

    /// Sets the number of addresses that several nodes list.
    pub(crate) fn contested_addresses(&self, count: usize) {
        self.ours.peers.contested_addresses.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a tunnel whose agent is silent, until the guard is dropped.
    pub(crate) fn suspect_tunnel(&self, link: Link) -> GaugeGuard {
        GaugeGuard::new(self.ours.peers.suspect_tunnels.with_label_values(&[link.label()]))
    }

    /// Counts a tunnel that is over.
    pub(crate) fn tunnel_closed(&self, link: Link) {
        self.ours.peers.tunnels_closed.with_label_values(&[link.label()]).inc();
    }

    /// Counts a review of a token.
    pub(crate) fn token_reviewed(&self, review: &ReviewEvent) {
        self.ours.peers.token_reviews.with_label_values(&[review.outcome]).inc();
        self.ours.peers.token_review_seconds.observe(review.latency.as_secs_f64());
    }

    /// Counts a request about Leases, or an expired Lease that was deleted.
    pub fn lease_event(&self, event: &LeaseEvent) {
        let (requests, Outcome { code, reason, latency }) = match event {
            LeaseEvent::Culled => return self.theirs.leases_culled.inc(),
            LeaseEvent::Deleted(outcome) => (&self.theirs.lease_deletes, outcome),
            LeaseEvent::Listed(outcome) => (&self.theirs.lease_lists, outcome),
            // Servers do not watch.
            LeaseEvent::Watched(_) => return,
        };
        requests.answered(*code, reason, *latency);
    }
}
