//! The events of the agent that metrics count.
//!
//! An event is one method, which tells it to two sets of metrics: ours, and
//! Konnectivity's for dashboards and alerts that exist. docs/METRICS.md lists both.

mod konnectivity;
mod ours;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Registry, Result};
use tunnel::packets::Counters;
use tunnel::relay::{Ending, Meter};
use tunnel::transport::Link;
use tunnel_kube::leases::{LeaseEvent, Outcome};
use tunnel_program::metering::{Described, Maker, Waits};
use tunnel_proto::refusal::RefusalKind;

use konnectivity::Konnectivity;
use ours::Ours;
pub use tunnel_program::metering::GaugeGuard;

/// The agent's metrics; clones are the same metrics.
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
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self::described(registry)?.0)
    }

    /// As [`Metrics::register`], with a list of the metrics.
    ///
    /// # Errors
    /// As there.
    pub fn described(registry: &Registry) -> Result<(Self, Vec<Described>)> {
        let mut ours = Maker::new(registry, "tunnel_agent");
        let mut theirs = Maker::new(registry, "konnectivity_network_proxy_agent");
        let metrics = Self {
            ours: Arc::new(Ours::make(&mut ours)?),
            theirs: Arc::new(Konnectivity::make(&mut theirs)?),
            meters: Arc::default(),
        };
        Ok((metrics, [ours.into_made(), theirs.into_made()].concat()))
    }

    /// Sets the bytes that all stalled connections may keep; there is no limit before.
    pub fn limit_stalled(&self, bytes: u64) {
        self.ours.traffic.limit_stalled(bytes);
    }

    /// Directions of connections whose receiver has taken nothing for ten seconds.
    pub fn stalled(&self) -> u64 {
        self.ours.traffic.stalled()
    }

    /// Servers to which a tunnel stands, and to which one should.
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

    /// An attempt to establish a tunnel is over. `None` is one that came to no link.
    pub fn tunnel_attempted(&self, link: Option<Link>, outcome: &str) {
        let link = link.map_or("none", Link::label);
        self.ours.tunnel_attempts.with_label_values(&[link, outcome]).inc();
    }

    /// How many attempts on a link had this outcome.
    pub fn tunnel_attempts(&self, link: Link, outcome: &str) -> u64 {
        self.ours.tunnel_attempts.with_label_values(&[link.label(), outcome]).get()
    }

    /// A tunnel is over; `broken` is one that the server ended, or that was lost.
    pub fn tunnel_ended(&self, link: Link, broken: bool) {
        self.ours.tunnels_closed.with_label_values(&[link.label()]).inc();
        if broken {
            // The end of a tunnel shows while receiving, also when a send failed first.
            self.theirs.server_failures.with_label_values(&["from_server"]).inc();
        }
    }

    /// Counts a connection, its dial included, until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.ours.connections.clone())
    }

    /// A dial is over in a way that says nothing of the target.
    pub fn dial_ended(&self, outcome: &str) {
        self.ours.dials.with_label_values(&[outcome]).inc();
    }

    /// The target has answered. Counts its connection until the guard is dropped.
    pub fn dialed(&self, took: Duration) -> GaugeGuard {
        self.dial_ended("connected");
        self.ours.dial_seconds.observe(took.as_secs_f64());
        self.theirs.dial_duration.observe(took.as_secs_f64());
        GaugeGuard::new(self.theirs.endpoint_connections.clone())
    }

    /// The target could not be connected to.
    pub fn dial_failed(&self, why: RefusalKind) {
        self.dial_ended(why.label());
        // Konnectivity has no series before the first failure, and neither have we.
        let reason = if why == RefusalKind::Timeout { "timeout" } else { "unknown" };
        self.theirs.dial_failures.with_label_values(&[reason]).inc();
    }

    /// A connection is over. `None` is one that was cut because the agent stopped.
    pub fn closed(&self, link: Link, ending: Option<&Ending>, lasted: Duration) {
        self.ours.traffic.closed(ending, lasted, |how, why| [link.label(), how, why]);
    }

    /// The meter that the relays of all connections on such a link share.
    pub fn meter(&self, link: Link) -> &Meter {
        let make = || self.ours.traffic.meter(&[link.label()], Waits::default(), Waits::default());
        self.meters[link as usize].get_or_init(make)
    }

    /// Counters of the packets of a tunnel to a Konnectivity server.
    pub fn packets(&self) -> Counters {
        self.theirs.packets.clone()
    }

    /// A request about Leases is over.
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
