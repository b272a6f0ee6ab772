//! The metrics of the agent. Each event is one method, which counts it in two sets: ours, and
//! Konnectivity's for existing dashboards and alerts. docs/METRICS.md lists both.

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
use tunnel_program::metering::{Described, Maker, Waits};
use tunnel_program::renewal::RenewalMetrics;
use tunnel_proto::refusal::RefusalKind;

use crate::course::Reason;
use konnectivity::Konnectivity;
use ours::Ours;
pub(crate) use tunnel_program::metering::GaugeGuard;

/// The agent's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    ours: Arc<Ours>,
    theirs: Arc<Konnectivity>,
    meters: Arc<[OnceLock<Meter>; Link::ALL.len()]>,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self::described(registry)?.0)
    }

    /// As [`Metrics::register`], with a list of the metrics.
    ///
    /// # Errors
    /// When one is registered already.
    pub fn described(registry: &Registry) -> Result<(Self, Vec<Described>)> {
        let mut ours = Maker::new(registry, "tunnel_agent");
        let mut theirs = Maker::new(registry, "konnectivity_network_proxy_agent");
        let made = Ours::make(&mut ours)?;
        let metrics = Self {
            theirs: Arc::new(Konnectivity::make(&mut theirs, made.traffic.budget())?),
            ours: Arc::new(made),
            meters: Arc::default(),
        };
        Ok((metrics, [ours.into_made(), theirs.into_made()].concat()))
    }

    /// Sets the bytes that all stalled connections together may hold; 0 is no limit.
    pub(crate) fn limit_stalled(&self, bytes: u64) {
        self.ours.traffic.limit_stalled(bytes);
    }

    /// The metrics of files that are read again.
    pub(crate) fn renewal(&self) -> RenewalMetrics {
        self.ours.renewal.clone()
    }

    /// Directions of connections whose receiver has taken nothing for ten seconds.
    pub fn stalled(&self) -> u64 {
        self.ours.traffic.stalled()
    }

    /// Counts the changes of a Unix socket's file.
    pub(crate) fn socket(&self, name: &'static str) -> Observer {
        self.ours.sockets.observer(name)
    }

    /// Sets the numbers of servers connected and wanted.
    pub fn set_servers(&self, connected: usize, wanted: usize) {
        let (ours, theirs) = (&self.ours, &self.theirs);
        for (gauge, servers) in [
            (&ours.servers_connected, connected),
            (&theirs.server_connections, connected),
            (&ours.servers_wanted, wanted),
            (&theirs.server_count, wanted),
        ] {
            gauge.set(i64::try_from(servers).unwrap_or(i64::MAX));
        }
    }

    /// An attempt to establish a tunnel is over, `None` before a link was tried.
    pub(crate) fn tunnel_attempted(&self, link: Option<Link>, outcome: &str) {
        let link = link.map_or("none", Link::label);
        self.ours.tunnel_attempts.with_label_values(&[link, outcome]).inc();
    }

    /// A tunnel is established, on this link for this reason.
    pub(crate) fn tunnel_established(&self, link: Link, why: Reason) {
        self.ours.tunnels_established.with_label_values(&[link.label(), why.label()]).inc();
    }

    /// Looks at the receive buffer of UDP sockets.
    pub(crate) fn look_at_udp(&self) {
        self.ours.sockets.look_at_udp();
    }

    /// Number of attempts on a link with this outcome.
    pub fn tunnel_attempts(&self, link: Link, outcome: &str) -> u64 {
        self.ours.tunnel_attempts.with_label_values(&[link.label(), outcome]).get()
    }

    /// A tunnel is over; `broken` if it was lost, or ended by the server.
    pub fn tunnel_ended(&self, link: Link, broken: bool) {
        self.ours.tunnels_closed.with_label_values(&[link.label()]).inc();
        if broken {
            // The receiver notices the end of a tunnel, also after a failed send.
            self.theirs.server_failures.with_label_values(&["from_server"]).inc();
        }
    }

    /// Counts a connection, from its dial on, until the guard is dropped.
    pub(crate) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.ours.connections.clone())
    }

    /// A dial is over, with an outcome that is not the target's.
    pub(crate) fn dial_ended(&self, outcome: &str) {
        self.ours.dials.with_label_values(&[outcome]).inc();
    }

    /// The policy refused a dial. The rules of the file bound the label.
    pub(crate) fn denied(&self, rule: &str) {
        self.ours.denied.with_label_values(&[rule]).inc();
    }

    /// A target accepted. Counts its connection until the guard is dropped.
    pub(crate) fn dialed(&self, took: Duration) -> GaugeGuard {
        self.dial_ended("connected");
        self.ours.dial_seconds.observe(took.as_secs_f64());
        self.theirs.dial_duration.observe(took.as_secs_f64());
        GaugeGuard::new(self.theirs.endpoint_connections.clone())
    }

    /// A dial failed.
    pub fn dial_failed(&self, why: RefusalKind) {
        self.dial_ended(why.label());
        // No series before the first failure, as in Konnectivity.
        let reason = if why == RefusalKind::Timeout { "timeout" } else { "unknown" };
        self.theirs.dial_failures.with_label_values(&[reason]).inc();
    }

    /// A connection is over; `None` if the agent was killed.
    pub(crate) fn closed(&self, link: Link, ending: Option<&Ending>, lasted: Duration) {
        self.ours.traffic.closed(ending, lasted, |how, why| [link.label(), how, why]);
    }

    /// The meter of all connections on a link.
    pub(crate) fn meter(&self, link: Link) -> &Meter {
        let make = || self.ours.traffic.meter(&[link.label()], Waits::default(), Waits::default());
        self.meters[link as usize].get_or_init(make)
    }

    /// Counters of packets on konnectivity links.
    pub fn packets(&self) -> Counters {
        self.theirs.packets.clone()
    }

    /// A request for Leases is over.
    pub fn lease_event(&self, event: &LeaseEvent) {
        let (requests, Outcome { code, reason, latency }) = match event {
            LeaseEvent::Listed(outcome) => (&self.theirs.lease_lists, outcome),
            LeaseEvent::Watched(outcome) => (&self.theirs.lease_watches, outcome),
            // Agents delete nothing.
            LeaseEvent::Culled | LeaseEvent::Deleted(_) => return,
        };
        requests.answered(*code, reason, *latency);
    }
}
