//! The metrics of Konnectivity's agent, for dashboards and alerts that exist.
//!
//! Names, types, labels, buckets and help texts are interface and equal
//! Konnectivity's to the letter, its slips included. What is counted is the
//! nearest thing that is true here; docs/METRICS.md says what that is.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounterVec, IntGauge, Result};
use tunnel::packet_counters::PacketCounters;
use tunnel::packets::Counters;
use tunnel_program::metering::{Maker, PacketMetrics, Segment};
use tunnel_proto::refusal::RefusalKind;

const LATENCY: &[f64] = &[0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];

/// Which way something to do with a server failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Receiving.
    FromServer,
    /// Sending.
    ToServer,
}

impl Direction {
    /// The name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FromServer => "from_server",
            Self::ToServer => "to_server",
        }
    }
}

/// The metrics `konnectivity_network_proxy_agent_…`.
#[derive(Debug)]
pub struct Konnectivity {
    pub(super) dial_duration: Histogram,
    pub(super) endpoint_connections: IntGauge,
    pub(super) server_connections: IntGauge,
    pub(super) server_count: IntGauge,
    dial_failures: IntCounterVec,
    server_failures: IntCounterVec,
    /// Packets of Konnectivity's protocol.
    pub packets: Packets,
    /// Calls of those who count leases.
    pub leases: Leases,
}

impl Konnectivity {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            dial_duration: make.histogram(
                "dial_duration_seconds",
                "Latency of dial to the remote endpoint in seconds",
                LATENCY,
            )?,
            endpoint_connections: make
                .gauge("open_endpoint_connections", "Current number of open endpoint connections.")?,
            server_connections: make
                .gauge("open_server_connections", "Current number of open server connections.")?,
            server_count: make
                .gauge("known_server_count", "Current number of servers agent is trying to connect to.")?,
            dial_failures: make.counters(
                "endpoint_dial_failure_total",
                "Number of failures dialing the remote endpoint, by reason (example: timeout).",
                &["reason"],
            )?,
            server_failures: make.counters(
                "server_connection_failure_count",
                "Count of failures to send to or receive from the proxy server, labeled by the direction \
                 (from_server or to_server). DEPRECATED, please use stream_events_error_total",
                &["direction"],
            )?,
            packets: Packets::make(make)?,
            leases: Leases::make(make)?,
        })
    }

    /// No series exists before its first failure, as with Konnectivity, so that
    /// "none" is told in the same way.
    pub(super) fn dial_failed(&self, why: RefusalKind) {
        let reason = if why == RefusalKind::Timeout { "timeout" } else { "unknown" };
        self.dial_failures.with_label_values(&[reason]).inc();
    }

    /// A tunnel broke while this agent sent to it or received from it.
    pub fn server_failed(&self, direction: Direction) {
        self.server_failures.with_label_values(&[direction.label()]).inc();
    }
}

/// Packets on links that speak Konnectivity's protocol. Connections hold clones.
#[derive(Debug)]
pub struct Packets {
    /// Sent by this agent.
    pub from_agent: PacketCounters,
    /// Received by this agent.
    pub to_agent: PacketCounters,
}

impl Packets {
    /// Of a tunnel to a Konnectivity server.
    pub fn counters(&self) -> Counters {
        Counters { received: self.to_agent.clone(), sent: self.from_agent.clone() }
    }

    fn make(make: &mut Maker<'_>) -> Result<Self> {
        let packets = PacketMetrics::make(make)?;
        Ok(Self { from_agent: packets.of(Segment::FromAgent), to_agent: packets.of(Segment::ToAgent) })
    }
}

/// What an agent that counts leases asks of the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseCall {
    /// Listing them.
    List,
    /// Watching them.
    Watch,
}

/// Calls of those who count leases.
#[derive(Debug)]
pub struct Leases {
    lists: IntCounterVec,
    list_latency: HistogramVec,
    watches: IntCounterVec,
}

impl Leases {
    fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            lists: make.counters(
                "lease_lists_total",
                "Count of server lease list calls made by the agent to the k8s apiserver, labeled by HTTP \
                 response code and reason",
                &["http_response_code", "reason"],
            )?,
            list_latency: make.histograms(
                "lease_list_latency_seconds",
                "Latency of server lease listing in seconds",
                &["http_response_code"],
                LATENCY,
            )?,
            watches: make.counters(
                "lease_watches_total",
                "Count of server lease watch calls made by the agent to the k8s apiserver, labeled by HTTP \
                 response code and reason",
                &["http_response_code", "reason"],
            )?,
        })
    }

    /// The Kubernetes API answered a call with this status and reason (200 and
    /// an empty one when it did as asked, 0 when it did not answer), after this
    /// time.
    pub fn answered(&self, call: LeaseCall, status: u16, reason: &str, took: Duration) {
        let status = status.to_string();
        match call {
            LeaseCall::List => {
                self.lists.with_label_values(&[status.as_str(), reason]).inc();
                self.list_latency.with_label_values(&[status]).observe(took.as_secs_f64());
            }
            LeaseCall::Watch => self.watches.with_label_values(&[status.as_str(), reason]).inc(),
        }
    }
}
