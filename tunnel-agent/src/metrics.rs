//! Every metric of the agent. The help texts are the documentation.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, Result};
use tunnel::relay::Meter;

/// The agent's metrics; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Connections being dialled or relayed.
    pub connections: IntGauge,
    /// Bytes relayed.
    pub bytes: IntCounterVec,
    /// Dials by outcome.
    pub dials: IntCounterVec,
    /// Seconds that dials which connected took.
    pub dial_seconds: Histogram,
    /// How connections ended.
    pub endings: IntCounterVec,
    /// Seconds that connections lasted.
    pub connection_seconds: Histogram,
    /// Servers to which a tunnel stands.
    pub servers_connected: IntGauge,
    /// Servers to which a tunnel should stand.
    pub servers_wanted: IntGauge,
    /// Attempts to establish a tunnel.
    pub tunnel_attempts: IntCounterVec,
    /// Tunnels that ended, by reason.
    pub tunnels_closed: IntCounterVec,
}

const DIAL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];
const LIFE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let opts = |name: &str, help: &str| Opts::new(format!("tunnel_agent_{name}"), help);
        let buckets = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec())
        };
        let metrics = Self {
            connections: IntGauge::with_opts(opts(
                "connections",
                "Connections to targets being dialled or relayed.",
            ))?,
            bytes: IntCounterVec::new(
                opts("bytes_total", "Bytes relayed, up (to targets) and down."),
                &["direction"],
            )?,
            dials: IntCounterVec::new(
                opts("dials_total", "Dials of targets, by outcome: connected, or why not."),
                &["outcome"],
            )?,
            dial_seconds: Histogram::with_opts(buckets(
                "dial_duration_seconds",
                "Time that dials which connected took.",
                DIAL_BUCKETS,
            ))?,
            endings: IntCounterVec::new(
                opts("connections_ended_total", "Connections, by how they ended."),
                &["how"],
            )?,
            connection_seconds: Histogram::with_opts(buckets(
                "connection_duration_seconds",
                "Time that connections lasted.",
                LIFE_BUCKETS,
            ))?,
            servers_connected: IntGauge::with_opts(opts(
                "servers_connected",
                "Tunnel servers to which a tunnel stands.",
            ))?,
            servers_wanted: IntGauge::with_opts(opts(
                "servers_wanted",
                "Tunnel servers to which a tunnel should stand, by addresses and counts.",
            ))?,
            tunnel_attempts: IntCounterVec::new(
                opts("tunnel_attempts_total", "Attempts to establish a tunnel, by link and outcome."),
                &["link", "outcome"],
            )?,
            tunnels_closed: IntCounterVec::new(
                opts("tunnels_closed_total", "Tunnels that ended, by link."),
                &["link"],
            )?,
        };
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.dials.clone()))?;
        registry.register(Box::new(metrics.dial_seconds.clone()))?;
        registry.register(Box::new(metrics.endings.clone()))?;
        registry.register(Box::new(metrics.connection_seconds.clone()))?;
        registry.register(Box::new(metrics.servers_connected.clone()))?;
        registry.register(Box::new(metrics.servers_wanted.clone()))?;
        registry.register(Box::new(metrics.tunnel_attempts.clone()))?;
        registry.register(Box::new(metrics.tunnels_closed.clone()))?;
        Ok(metrics)
    }

    /// The byte counters for one connection.
    pub fn meter(&self) -> Meter {
        Meter { up: self.bytes.with_label_values(&["up"]), down: self.bytes.with_label_values(&["down"]) }
    }
}
