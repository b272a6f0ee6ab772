//! Every metric of the agent.
//!
//! Two sets tell of the same events: ours, and [`Konnectivity`], whose names and
//! help texts are Konnectivity's, for dashboards and alerts that exist. What
//! belongs to both is counted by one method, here. docs/METRICS.md lists all.

mod konnectivity;
mod ours;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Registry, Result};
use tunnel::relay::{Budget, Ending, Meter};
use tunnel::transport::Link;
use tunnel_program::metering::{Described, LaneMetrics, Maker};
use tunnel_proto::refusal::RefusalKind;

pub use konnectivity::{Direction, Konnectivity, LeaseCall, Leases, Packets};
use ours::Traffic;
pub use ours::Tunnels;
pub use tunnel_program::metering::GaugeGuard;

/// The agent's metrics; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    traffic: Arc<Traffic>,
    /// What connections that stand still may keep; without a limit until one is set.
    pub budget: Arc<Budget>,
    meters: Arc<[OnceLock<Meter>; Link::ALL.len()]>,
    tunnels: Arc<Tunnels>,
    /// Under Konnectivity's names.
    pub konnectivity: Arc<Konnectivity>,
}

impl Deref for Metrics {
    type Target = Tunnels;

    fn deref(&self) -> &Tunnels {
        &self.tunnels
    }
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self::described(registry)?.0)
    }

    /// As [`Metrics::register`], with a list of what there is.
    ///
    /// # Errors
    /// As there.
    pub fn described(registry: &Registry) -> Result<(Self, Vec<Described>)> {
        let mut ours = Maker::new(registry, "tunnel_agent");
        let mut theirs = Maker::new(registry, "konnectivity_network_proxy_agent");
        let konnectivity = Arc::new(Konnectivity::make(&mut theirs)?);
        let budget = Arc::<Budget>::default();
        let traffic = Arc::new(Traffic::make(&mut ours, &budget)?);
        let metrics = Self {
            budget,
            traffic,
            meters: Arc::default(),
            tunnels: Arc::new(Tunnels::make(&mut ours, &konnectivity)?),
            konnectivity,
        };
        Ok((metrics, [ours.into_made(), theirs.into_made()].concat()))
    }

    /// Servers to which a tunnel stands, and to which one should.
    pub fn set_servers(&self, connected: usize, wanted: usize) {
        let count = |servers| i64::try_from(servers).unwrap_or(i64::MAX);
        self.servers_connected.set(count(connected));
        self.servers_wanted.set(count(wanted));
    }

    /// A tunnel is over; `broken` is one that the server ended, or that was lost.
    pub fn tunnel_ended(&self, link: Link, broken: bool) {
        self.tunnels_closed.with_label_values(&[link.label()]).inc();
        if broken {
            // That it is over shows while receiving, also when a send failed first.
            self.konnectivity.server_failed(Direction::FromServer);
        }
    }

    /// Counts a connection, its dial included, until the guard is dropped.
    pub fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.traffic.connections.clone())
    }

    /// A dial is over in a way that says nothing of the target.
    pub fn dial_ended(&self, outcome: &str) {
        self.traffic.dials.with_label_values(&[outcome]).inc();
    }

    /// The target has answered. Counts its connection until the guard is dropped.
    pub fn dialed(&self, took: Duration) -> GaugeGuard {
        self.dial_ended("connected");
        self.traffic.dial_seconds.observe(took.as_secs_f64());
        self.konnectivity.dial_duration.observe(took.as_secs_f64());
        GaugeGuard::new(self.konnectivity.endpoint_connections.clone())
    }

    /// The target could not be connected to.
    pub fn dial_failed(&self, why: RefusalKind) {
        self.dial_ended(why.label());
        self.konnectivity.dial_failed(why);
    }

    /// A connection is over. `None` is one that was cut because the agent stopped.
    pub fn closed(&self, link: Link, ending: Option<&Ending>, lasted: Duration) {
        let (how, why) = ending.map_or(("killed", "none"), |ending| (ending.label(), ending.why()));
        self.traffic.endings.with_label_values(&[link.label(), how, why]).inc();
        self.traffic.seconds.observe(lasted.as_secs_f64());
    }

    /// What the relays of connections on such a link count. They share it, so
    /// that none looks its series up.
    pub fn meter(&self, link: Link) -> &Meter {
        self.meters[link as usize].get_or_init(|| self.make_meter(link))
    }

    fn make_meter(&self, link: Link) -> Meter {
        let lane = |direction: &str| {
            let labels = [link.label(), direction];
            LaneMetrics {
                bytes: self.traffic.bytes.with_label_values(&labels),
                waiting: None,
                waits: None,
                stalled: self.traffic.stalled.with_label_values(&labels),
                stalls: self.traffic.stalls.with_label_values(&labels),
            }
        };
        Meter::new(lane("up"), lane("down"), Arc::clone(&self.budget))
    }
}
