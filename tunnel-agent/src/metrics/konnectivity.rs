//! The metrics of Konnectivity's agent. Names, types, labels, buckets and help texts are
//! interface and equal Konnectivity's to the letter, its slips included.

use std::sync::Arc;

use prometheus::{Histogram, IntCounterVec, IntGauge, Result};
use tunnel::packets::Counters;
use tunnel::relay::Budget;
use tunnel_program::metering::{Maker, PacketMetrics, RequestMetrics};

/// Konnectivity's buckets, in seconds.
const LATENCY: &[f64] = &[0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];

#[derive(Debug)]
pub(super) struct Konnectivity {
    pub(super) dial_duration: Histogram,
    pub(super) endpoint_connections: IntGauge,
    pub(super) server_connections: IntGauge,
    pub(super) server_count: IntGauge,
    pub(super) dial_failures: IntCounterVec,
    pub(super) server_failures: IntCounterVec,
    pub(super) packets: Counters,
    pub(super) lease_lists: RequestMetrics,
    pub(super) lease_watches: RequestMetrics,
}

impl Konnectivity {
    pub(super) fn make(make: &mut Maker<'_>, budget: Arc<Budget>) -> Result<Self> {
        let leases = &["http_response_code", "reason"];
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
            packets: PacketMetrics::make(make)?.counters("to_agent", "from_agent", budget),
            lease_lists: RequestMetrics::new(
                make.counters(
                    "lease_lists_total",
                    "Count of server lease list calls made by the agent to the k8s apiserver, labeled by \
                     HTTP response code and reason",
                    leases,
                )?,
                Some(make.histograms(
                    "lease_list_latency_seconds",
                    "Latency of server lease listing in seconds",
                    &leases[..1],
                    LATENCY,
                )?),
            ),
            lease_watches: RequestMetrics::new(
                make.counters(
                    "lease_watches_total",
                    "Count of server lease watch calls made by the agent to the k8s apiserver, labeled by \
                     HTTP response code and reason",
                    leases,
                )?,
                None,
            ),
        })
    }
}
