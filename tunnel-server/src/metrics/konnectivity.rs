//! The metrics of Konnectivity's server, for dashboards and alerts that exist.
//!
//! Names, types, labels, buckets and help texts are interface and equal
//! Konnectivity's to the letter, its slips included. What is counted is the
//! nearest thing that is true here; docs/METRICS.md says what that is. Gauges
//! are held by guards, so they cannot drift from what they count.

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};
use tunnel::packet_counters::PacketCounters;
use tunnel_program::metering::{GaugeGuard, Maker, PacketMetrics, Segment};

const LATENCY: &[f64] = &[0.000_001, 0.000_01, 0.000_1, 0.005, 0.025, 0.1, 0.5, 2.5, 12.5];
const LIFE: &[f64] =
    &[1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];

/// Konnectivity's reasons for a failed dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailureReason {
    /// The agent went away, or takes no dials.
    BackendClose,
    /// The agent did not answer in time.
    BackendDialTimeout,
    /// The agent answered that it could not, or that the target is none.
    ErrorResponse,
    /// The client no longer wanted the answer.
    FrontendClose,
    /// No agent is there for the target.
    NoAgent,
    /// The agent had connected, but the client could not be told.
    SendResponse,
    /// The agent's answer made no sense.
    UnrecognizedResponse,
}

impl DialFailureReason {
    /// The name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BackendClose => "backend_close",
            Self::BackendDialTimeout => "backend_dial_timeout",
            Self::ErrorResponse => "error_response",
            Self::FrontendClose => "frontend_close",
            Self::NoAgent => "no_agent",
            Self::SendResponse => "send_rsp",
            Self::UnrecognizedResponse => "unrecognized_response",
        }
    }
}

/// The metrics `konnectivity_network_proxy_server_…`, but for those that
/// [`super::Backends`] counts.
#[derive(Debug)]
pub struct Konnectivity {
    pub(super) dial_duration: Histogram,
    pub(super) frontend_write: Histogram,
    pub(super) connection_duration: Histogram,
    pub(super) pending_dials: IntGauge,
    pub(super) full_of_agents: IntGauge,
    pub(super) full_of_clients: IntGauge,
    grpc_connections: IntGaugeVec,
    http_connections: IntGauge,
    established: IntGauge,
    dial_failures: IntCounterVec,
    /// Packets of Konnectivity's protocol.
    pub packets: Packets,
    /// The lease controller's calls.
    pub leases: Leases,
}

impl Konnectivity {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        let full = make.gauges(
            "full_receive_channels",
            "Number of current connections blocked by a full receive channel, partitioned by service method.",
            &["service_method"],
        )?;
        let grpc_connections = make.gauges(
            "grpc_connections",
            "Number of current grpc connections, partitioned by service method.",
            &["service_method"],
        )?;
        for method in [PROXY, CONNECT] {
            grpc_connections.with_label_values(&[method]).set(0);
        }
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
            grpc_connections,
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
            packets: Packets::make(make)?,
            leases: Leases::make(make)?,
        })
    }

    /// Counts a client's `Proxy` call, until the guard is dropped.
    pub fn proxy_call(&self) -> GaugeGuard {
        GaugeGuard::new(self.grpc_connections.with_label_values(&[PROXY]))
    }

    /// Counts the `Connect` call of an agent that speaks Konnectivity's
    /// protocol, until the guard is dropped.
    pub fn connect_call(&self) -> GaugeGuard {
        GaugeGuard::new(self.grpc_connections.with_label_values(&[CONNECT]))
    }

    /// Counts a client's CONNECT request, until the guard is dropped.
    pub fn http_connection(&self) -> GaugeGuard {
        GaugeGuard::new(self.http_connections.clone())
    }

    /// Counts a connection of which client and target know, until the guard is
    /// dropped.
    pub fn established(&self) -> GaugeGuard {
        GaugeGuard::new(self.established.clone())
    }

    /// A dial failed, or the first of two attempts at it. No series exists
    /// before its first failure, as with Konnectivity, so that "none" is told
    /// in the same way.
    pub fn dial_failed(&self, why: DialFailureReason) {
        self.dial_failures.with_label_values(&[why.label()]).inc();
    }
}

/// Packets of Konnectivity's protocol, by segment. Connections hold clones.
#[derive(Debug)]
pub struct Packets {
    /// Of agents that speak it.
    pub from_agent: PacketCounters,
    /// Of gRPC clients.
    pub from_client: PacketCounters,
    /// To agents that speak it.
    pub to_agent: PacketCounters,
    /// To gRPC clients.
    pub to_client: PacketCounters,
}

impl Packets {
    fn make(make: &mut Maker<'_>) -> Result<Self> {
        let packets = PacketMetrics::make(make)?;
        Ok(Self {
            from_agent: packets.of(Segment::FromAgent),
            from_client: packets.of(Segment::FromClient),
            to_agent: packets.of(Segment::ToAgent),
            to_client: packets.of(Segment::ToClient),
        })
    }
}

/// What the lease controller asks of the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseCall {
    /// Deleting a lease that has expired.
    Delete,
    /// Listing the leases.
    List,
}

/// The lease controller's calls.
#[derive(Debug)]
pub struct Leases {
    culled: IntCounter,
    deletes: IntCounterVec,
    delete_latency: HistogramVec,
    lists: IntCounterVec,
    list_latency: HistogramVec,
}

impl Leases {
    fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            culled: make.counter(
                "culled_leases_count",
                "Count of expired leases that the lease garbage collection controller has culled.",
            )?,
            deletes: make.counters(
                "lease_delete_total",
                "Count of lease delection calls by the garbage collection controller. Labeled by HTTP status \
                 code and reason.",
                &["http_status_code", "reason"],
            )?,
            delete_latency: make.histograms(
                "lease_delete_latency_seconds",
                "Latency of lease deletion calls by the garbage collection controller in seconds.",
                &["http_status_code"],
                prometheus::DEFAULT_BUCKETS,
            )?,
            lists: make.counters(
                "lease_list_total",
                "Count of lease deletion calls by the garbage collection controller. Labeled by HTTP status \
                 code and reason.",
                &["http_status_code", "reason"],
            )?,
            list_latency: make.histograms(
                "lease_list_latency_seconds",
                "Latency of lease list calls by the garbage collection controller in seconds.",
                &["http_status_code"],
                prometheus::DEFAULT_BUCKETS,
            )?,
        })
    }

    /// The Kubernetes API answered a call with this status and reason (200 and
    /// an empty one when it did as asked, 0 when it did not answer), after this
    /// time.
    pub fn answered(&self, call: LeaseCall, status: u16, reason: &str, took: Duration) {
        let (calls, latency) = match call {
            LeaseCall::Delete => (&self.deletes, &self.delete_latency),
            LeaseCall::List => (&self.lists, &self.list_latency),
        };
        let status = status.to_string();
        calls.with_label_values(&[status.as_str(), reason]).inc();
        latency.with_label_values(&[status]).observe(took.as_secs_f64());
    }

    /// A lease that had expired was deleted.
    pub fn culled(&self) {
        self.culled.inc();
    }
}

/// Konnectivity's method for clients.
const PROXY: &str = "Proxy";

/// Konnectivity's method for agents.
const CONNECT: &str = "Connect";
