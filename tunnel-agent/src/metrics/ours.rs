//! Our own metrics. The help texts are the documentation.

use std::sync::Arc;

use prometheus::{Histogram, IntCounterVec, IntGauge, IntGaugeVec, Result};
use tunnel::relay::Budget;
use tunnel_program::metering::{Maker, Twin};

use super::Konnectivity;

const DIAL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];
const LIFE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

/// Connections to targets.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Being dialled or relayed.
    pub(super) connections: IntGauge,
    /// Bytes relayed.
    pub(super) bytes: IntCounterVec,
    /// Dials by outcome.
    pub(super) dials: IntCounterVec,
    /// Seconds that dials which connected took.
    pub(super) dial_seconds: Histogram,
    /// How connections ended.
    pub(super) endings: IntCounterVec,
    /// Seconds that they lasted.
    pub(super) seconds: Histogram,
    /// Directions of connections that are stalled.
    pub(super) stalled: IntGaugeVec,
    /// How often that began.
    pub(super) stalls: IntCounterVec,
}

impl Traffic {
    pub(super) fn make(make: &mut Maker<'_>, budget: &Arc<Budget>) -> Result<Self> {
        let kept = Arc::clone(budget);
        make.read_gauge(
            "stalled_bytes",
            "Bytes that wait in this process for receivers which have taken nothing for 5 s or longer.",
            move || kept.kept(),
        )?;
        Ok(Self {
            connections: make.gauge("connections", "Connections to targets being dialled or relayed.")?,
            bytes: make.counters(
                "bytes_total",
                "Bytes relayed, up (to targets) and down.",
                &["link", "direction"],
            )?,
            dials: make.counters(
                "dials_total",
                "Dials of targets, by outcome: connected, or why not.",
                &["outcome"],
            )?,
            dial_seconds: make.histogram(
                "dial_duration_seconds",
                "Time that dials which connected took, the look-up of names included.",
                DIAL_BUCKETS,
            )?,
            endings: make.counters(
                "connections_ended_total",
                "Connections, by how they ended and what broke; near is the server, far the target.",
                &["link", "how", "why"],
            )?,
            seconds: make.histogram(
                "connection_duration_seconds",
                "Time that connections lasted, from the target's answer on.",
                LIFE_BUCKETS,
            )?,
            stalled: make.gauges(
                "stalled_connections",
                "Connections whose receiver (up: the target, down: the server or its client) has taken \
                 nothing for 10 s or longer while bytes wait for it.",
                &["link", "direction"],
            )?,
            stalls: make.counters(
                "stalls_total",
                "How often a connection became stalled.",
                &["link", "direction"],
            )?,
        })
    }
}

/// Servers, and the tunnels to them.
#[derive(Debug)]
pub struct Tunnels {
    /// Servers to which a tunnel stands.
    pub servers_connected: Twin,
    /// Servers to which a tunnel should stand.
    pub servers_wanted: Twin,
    /// Attempts to establish a tunnel.
    pub tunnel_attempts: IntCounterVec,
    /// Tunnels that ended.
    pub tunnels_closed: IntCounterVec,
}

impl Tunnels {
    pub(super) fn make(make: &mut Maker<'_>, theirs: &Konnectivity) -> Result<Self> {
        let connected = make.gauge("servers_connected", "Tunnel servers to which a tunnel stands.")?;
        let wanted = make.gauge("servers_wanted", "Tunnel servers to which a tunnel should stand.")?;
        Ok(Self {
            servers_connected: Twin::new(connected, theirs.server_connections.clone()),
            servers_wanted: Twin::new(wanted, theirs.server_count.clone()),
            tunnel_attempts: make.counters(
                "tunnel_attempts_total",
                "Attempts to establish a tunnel, by link and outcome.",
                &["link", "outcome"],
            )?,
            tunnels_closed: make.counters(
                "tunnels_closed_total",
                "Tunnels that ended, by link.",
                &["link"],
            )?,
        })
    }
}
