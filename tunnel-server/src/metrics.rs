//! Every metric of the server.
//!
//! Two sets tell of the same events: ours, and [`Konnectivity`], whose names and
//! help texts are Konnectivity's, for dashboards and alerts that exist. What
//! belongs to both is counted by one method, here. docs/METRICS.md lists all.

mod backends;
mod konnectivity;
mod ours;

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Registry, Result};
use tunnel::relay::{Budget, Ending, Meter};
use tunnel::transport::Link;
use tunnel_program::metering::{Described, LaneMetrics, Maker};

pub use backends::Backends;
pub use konnectivity::{DialFailureReason, Konnectivity, LeaseCall, Leases, Packets};
pub use ours::Peers;
use ours::{Dials, Traffic};
pub use tunnel_program::metering::GaugeGuard;

/// The server's metrics; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    dials: Arc<Dials>,
    traffic: Arc<Traffic>,
    meters: Arc<Meters>,
    /// What connections that stand still may keep; without a limit until one is set.
    pub budget: Arc<Budget>,
    peers: Arc<Peers>,
    /// Under Konnectivity's names.
    pub konnectivity: Arc<Konnectivity>,
}

impl Deref for Metrics {
    type Target = Peers;

    fn deref(&self) -> &Peers {
        &self.peers
    }
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

/// Meters that have been asked for: connections share them, so that none looks
/// its series up.
#[derive(Debug, Default)]
struct Meters {
    connect: [OnceLock<Meter>; Link::ALL.len()],
    grpc: [OnceLock<Meter>; Link::ALL.len()],
}

impl Meters {
    const fn of(&self, kind: ClientKind, link: Link) -> &OnceLock<Meter> {
        match kind {
            ClientKind::Connect => &self.connect[link as usize],
            ClientKind::Grpc => &self.grpc[link as usize],
        }
    }
}

/// How long a dial that connected took.
#[derive(Debug, Clone, Copy)]
pub struct DialTimes {
    /// Choosing an agent and opening a stream to it.
    pub open: Duration,
    /// From there to the agent's answer: its own dial, and the way there and back.
    pub answer: Duration,
    /// All of it, an agent that failed before included.
    pub total: Duration,
}

/// How long a connection lasted.
#[derive(Debug, Clone, Copy)]
pub struct Lifetime {
    /// Since the client asked for it.
    pub asked: Duration,
    /// Since the client was told that it stands.
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

    /// As [`Metrics::register`], with a list of what there is.
    ///
    /// # Errors
    /// As there.
    pub fn described(registry: &Registry) -> Result<(Self, Vec<Described>)> {
        let mut ours = Maker::new(registry, "tunnel_server");
        let mut theirs = Maker::new(registry, "konnectivity_network_proxy_server");
        let dials = Arc::new(Dials::make(&mut ours)?);
        let budget = Arc::<Budget>::default();
        let traffic = Arc::new(Traffic::make(&mut ours, &budget)?);
        let metrics = Self {
            dials,
            budget,
            traffic,
            meters: Arc::default(),
            peers: Arc::new(Peers::make(&mut ours)?),
            konnectivity: Arc::new(Konnectivity::make(&mut theirs)?),
        };
        for kind in [ClientKind::Connect, ClientKind::Grpc] {
            metrics.traffic.connections.with_label_values(&[kind.label()]).set(0);
        }
        let made = [ours.into_made(), theirs.into_made(), Backends::described()].concat();
        Ok((metrics, made))
    }

    /// Counts a dial that waits for an agent's answer, until the guard is dropped.
    pub fn pending_dial(&self) -> GaugeGuard<2> {
        GaugeGuard::of([self.dials.pending.clone(), self.konnectivity.pending_dials.clone()])
    }

    /// A dial is tried again on another agent.
    pub fn dial_retried(&self) {
        self.dials.retries.inc();
    }

    /// A dial is over, in whichever way.
    pub fn dial_ended(&self, kind: ClientKind, outcome: &str) {
        self.dials.ended.with_label_values(&[kind.label(), outcome]).inc();
    }

    /// Counts a client's connection, its dial included, until the guard is dropped.
    pub fn connection(&self, kind: ClientKind) -> GaugeGuard {
        GaugeGuard::new(self.traffic.connections.with_label_values(&[kind.label()]))
    }

    /// Counts a stream to an agent, until the guard is dropped.
    pub fn stream(&self, link: Link) -> GaugeGuard {
        self.traffic.streams_opened.with_label_values(&[link.label()]).inc();
        GaugeGuard::new(self.traffic.streams.with_label_values(&[link.label()]))
    }

    /// Counts a tunnel that stands, until the guard is dropped.
    pub fn tunnel(&self, link: Link) -> (GaugeGuard, Option<GaugeGuard>) {
        let call = (link == Link::Konnectivity).then(|| self.konnectivity.connect_call());
        (GaugeGuard::new(self.peers.tunnels.with_label_values(&[link.label()])), call)
    }

    /// An agent has connected to a target.
    pub fn dialed(&self, link: Link, times: &DialTimes) {
        self.dials.seconds.with_label_values(&[link.label()]).observe(times.total.as_secs_f64());
        for (stage, took) in [("open", times.open), ("answer", times.answer)] {
            self.dials.stages.with_label_values(&[link.label(), stage]).observe(took.as_secs_f64());
        }
        self.konnectivity.dial_duration.observe(times.total.as_secs_f64());
    }

    /// A connection that was established is over. `None` is one that was cut
    /// because the server stopped.
    pub fn closed(&self, kind: ClientKind, link: Link, ending: Option<&Ending>, lasted: &Lifetime) {
        let (how, why) = ending.map_or(("killed", "none"), |ending| (ending.label(), ending.why()));
        self.traffic.endings.with_label_values(&[kind.label(), link.label(), how, why]).inc();
        self.traffic.seconds.observe(lasted.asked.as_secs_f64());
        self.konnectivity.connection_duration.observe(lasted.established.as_secs_f64());
    }

    /// What the relays of such connections count.
    pub fn meter(&self, kind: ClientKind, link: Link) -> &Meter {
        self.meters.of(kind, link).get_or_init(|| self.make_meter(kind, link))
    }

    fn make_meter(&self, kind: ClientKind, link: Link) -> Meter {
        let lane = |direction: &str| {
            let labels = [kind.label(), link.label(), direction];
            LaneMetrics {
                bytes: self.traffic.bytes.with_label_values(&labels),
                waiting: None,
                waits: None,
                stalled: self.traffic.stalled.with_label_values(&labels),
                stalls: self.traffic.stalls.with_label_values(&labels),
            }
        };
        let theirs = &self.konnectivity;
        let full_of_calls = match kind {
            // Konnectivity has no queue there either.
            ClientKind::Connect => None,
            ClientKind::Grpc => Some(theirs.full_of_clients.clone()),
        };
        let up = LaneMetrics { waiting: full_of_calls, ..lane("up") };
        let down = LaneMetrics {
            waiting: Some(theirs.full_of_agents.clone()),
            waits: Some(theirs.frontend_write.clone()),
            ..lane("down")
        };
        Meter::new(up, down, Arc::clone(&self.budget))
    }

    /// The Kubernetes API was asked whether a token is good; `outcome` is
    /// `good`, or why not.
    pub fn token_reviewed(&self, outcome: &str, took: Duration) {
        self.token_reviews.with_label_values(&[outcome]).inc();
        self.token_review_seconds.observe(took.as_secs_f64());
    }
}
