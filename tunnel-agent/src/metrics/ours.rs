//! Our own metrics, documented by their help texts.

use prometheus::{Histogram, IntCounterVec, IntGauge, Result};
use tunnel_program::metering::{DIAL_BUCKETS, Maker, SocketMetrics, Traffic, TrafficTexts};
use tunnel_program::renewal::RenewalMetrics;

#[derive(Debug)]
pub(super) struct Ours {
    pub(super) traffic: Traffic,
    pub(super) connections: IntGauge,
    pub(super) dials: IntCounterVec,
    pub(super) denied: IntCounterVec,
    pub(super) dial_seconds: Histogram,
    pub(super) servers_connected: IntGauge,
    pub(super) servers_wanted: IntGauge,
    pub(super) tunnel_attempts: IntCounterVec,
    pub(super) tunnels_established: IntCounterVec,
    pub(super) tunnels_closed: IntCounterVec,
    pub(super) renewal: RenewalMetrics,
    pub(super) sockets: SocketMetrics,
}

impl Ours {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        let texts = TrafficTexts {
            labels: &["link"],
            bytes: "Bytes relayed, up (to targets) and down.",
            endings: "Connections, by how they ended and what broke; near is the server, far the target.",
            seconds: "Time that connections lasted, from the target's answer on.",
            stalled: "Connections whose receiver (up: the target, down: the server or its client) has taken \
                      nothing for 10 s or longer while bytes wait for it.",
        };
        Ok(Self {
            traffic: Traffic::make(make, &texts)?,
            connections: make.gauge("connections", "Connections to targets being dialled or relayed.")?,
            dials: make.counters(
                "dials_total",
                "Dials of targets, by outcome: connected, or why not.",
                &["outcome"],
            )?,
            denied: make.counters(
                "policy_denied_total",
                "Dials that this agent's policy refused, by rule of the file or built in.",
                &["rule"],
            )?,
            dial_seconds: make.histogram(
                "dial_duration_seconds",
                "Time that dials which connected took, the look-up of names included.",
                DIAL_BUCKETS,
            )?,
            servers_connected: make.gauge("servers_connected", "Tunnel servers to which a tunnel stands.")?,
            servers_wanted: make.gauge("servers_wanted", "Tunnel servers to which a tunnel should stand.")?,
            tunnel_attempts: make.counters(
                "tunnel_attempts_total",
                "Attempts to establish a tunnel, by link and outcome.",
                &["link", "outcome"],
            )?,
            renewal: RenewalMetrics::make(make)?,
            tunnels_established: make.counters(
                "tunnels_established_total",
                "Tunnels established, by link and the reason for it: works (QUIC won), blocked (QUIC did not \
                 answer in time), silent (QUIC connected and fell silent), told (by the server), alone (the \
                 server speaks nothing else), proxy, flag.",
                &["link", "reason"],
            )?,
            tunnels_closed: make.counters(
                "tunnels_closed_total",
                "Tunnels that ended, by link.",
                &["link"],
            )?,
            sockets: SocketMetrics::make(make)?,
        })
    }
}
