//! The metrics of Konnectivity's server, for existing dashboards and alerts.
//!
//! Names, types, labels, buckets and help texts are interface and equal Konnectivity's to the
//! letter, its slips included. docs/METRICS.md has the meanings.

use std::sync::Arc;

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, Result};
use tunnel::packets::Counters;
use tunnel::relay::Budget;
use tunnel_program::metering::{Maker, PacketMetrics, RequestMetrics};

use crate::dial::error::{DialError, GivenUp};

pub(super) const PREFIX: &str = "konnectivity_network_proxy_server";

const LATENCY: &[f64] = &[0.000_001, 0.000_01, 0.000_1, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5];
const LIFE: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Konnectivity's methods for clients and for agents.
const PROXY: &str = "Proxy";
const CONNECT: &str = "Connect";

/// The reason of a failed dial.
pub(super) const fn reason(error: &DialError) -> &'static str {
    match error {
        DialError::NoAgent { .. } | DialError::NoneServes { .. } => "no_agent",
        DialError::AgentLost { .. } | DialError::AgentBusy { .. } => "backend_close",
        // Konnectivity has no policy; the agent's denial is an error response as well.
        DialError::Denied(_) | DialError::Refused { .. } => "error_response",
        DialError::Timeout { .. } => "backend_dial_timeout",
        DialError::BadAnswer { .. } => "unrecognized_response",
    }
}

/// The reason of a dial that was given up; `None` if it is no failure.
pub(super) const fn reason_given_up(why: GivenUp) -> Option<&'static str> {
    match why {
        // Konnectivity asks its agent, which refuses.
        GivenUp::BadRequest => Some("error_response"),
        GivenUp::Cancelled | GivenUp::Nonsense => Some("frontend_close"),
        GivenUp::Killed => None,
        GivenUp::Unanswered => Some("send_rsp"),
    }
}

/// The metrics without those of [`super::Backends`].
#[derive(Debug)]
pub(super) struct Konnectivity {
    pub(super) dial_duration: Histogram,
    pub(super) frontend_write: Histogram,
    pub(super) connection_duration: Histogram,
    pub(super) pending_dials: IntGauge,
    pub(super) full_of_agents: IntGauge,
    pub(super) full_of_clients: IntGauge,
    pub(super) calls_of_agents: IntGauge,
    pub(super) calls_of_clients: IntGauge,
    pub(super) http_connections: IntGauge,
    pub(super) established: IntGauge,
    pub(super) dial_failures: IntCounterVec,
    pub(super) packets_of_agents: Counters,
    pub(super) packets_of_clients: Counters,
    pub(super) leases_culled: IntCounter,
    pub(super) lease_deletes: RequestMetrics,
    pub(super) lease_lists: RequestMetrics,
}

impl Konnectivity {
    pub(super) fn make(make: &mut Maker<'_>, budget: &Arc<Budget>) -> Result<Self> {
        let full = make.gauges(
            "full_receive_channels",
            "Number of current connections blocked by a full receive channel, partitioned by service method.",
            &["service_method"],
        )?;
        let calls = make.gauges(
            "grpc_connections",
            "Number of current grpc connections, partitioned by service method.",
            &["service_method"],
        )?;
        let packets = PacketMetrics::make(make)?;
        Ok(Self {
            dial_duration: make.histogram(
                "dial_duration_seconds",
                "Latency of dial to the remote endpoint in seconds",
                LATENCY,
            )?,
            frontend_write: make.histogram(
                "frontend_write_duration_seconds",
                "Latency of write to the frontend in seconds",
                LATENCY,
            )?,
            connection_duration: make.histogram(
                "connection_duration_seconds",
                "Duration in seconds a proxied end-to-end connection was established (post-dial) before being \
                 closed.",
                LIFE,
            )?,
            pending_dials: make
                .gauge("pending_backend_dials", "Current number of pending backend dial requests")?,
            full_of_agents: full.with_label_values(&[CONNECT]),
            full_of_clients: full.with_label_values(&[PROXY]),
            calls_of_agents: calls.with_label_values(&[CONNECT]),
            calls_of_clients: calls.with_label_values(&[PROXY]),
            http_connections: make.gauge("http_connections", "Number of current HTTP CONNECT connections")?,
            established: make.gauge(
                "established_connections",
                "Current number of established end-to-end connections (post-dial).",
            )?,
            dial_failures: make.counters(
                "dial_failure_count",
                "Number of dial failures observed. Multiple failures can occur for a single dial request.",
                &["reason"],
            )?,
            packets_of_agents: packets.counters("from_agent", "to_agent", Arc::clone(budget)),
            packets_of_clients: packets.counters("from_client", "to_client", Arc::clone(budget)),
            leases_culled: make.counter(
                "culled_leases_count",
                "Count of expired leases that the lease garbage collection controller has culled.",
            )?,
            lease_deletes: lease_requests(
                make,
                "delete",
                "Count of lease delection calls by the garbage collection controller. Labeled by HTTP \
                 status code and reason.",
                "Latency of lease deletion calls by the garbage collection controller in seconds.",
            )?,
            lease_lists: lease_requests(
                make,
                "list",
                "Count of lease deletion calls by the garbage collection controller. Labeled by HTTP \
                 status code and reason.",
                "Latency of lease list calls by the garbage collection controller in seconds.",
            )?,
        })
    }
}

fn lease_requests(
    make: &mut Maker<'_>,
    verb: &str,
    total: &'static str,
    latency: &'static str,
) -> Result<RequestMetrics> {
    let (status, seconds) = ("http_status_code", prometheus::DEFAULT_BUCKETS);
    Ok(RequestMetrics::new(
        make.counters(&format!("lease_{verb}_total"), total, &[status, "reason"])?,
        Some(make.histograms(&format!("lease_{verb}_latency_seconds"), latency, &[status], seconds)?),
    ))
}
