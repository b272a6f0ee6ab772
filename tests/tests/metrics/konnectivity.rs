//! The metrics of Konnectivity, as scraped from its programs. Ours have to equal them.

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    /// In the order of the alphabet.
    pub(crate) labels: &'static [&'static str],
    /// Upper bounds of buckets, as they are written in `le`.
    pub(crate) bounds: &'static [&'static str],
    pub(crate) help: &'static str,
}

const LIFE: &[&str] = &["1", "5", "15", "30", "60", "300", "900", "1800", "3600", "14400", "43200", "86400"];
const LATENCY: &[&str] = &["1e-06", "1e-05", "0.0001", "0.005", "0.025", "0.1", "0.5", "2.5", "12.5"];
const DEFAULT: &[&str] = &["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10"];
const AGENT_LATENCY: &[&str] = &["0.005", "0.025", "0.1", "0.5", "2.5", "10", "30"];

/// The server's.
pub(crate) const SERVER: &[Family] = &[
    Family {
        name: "konnectivity_network_proxy_server_connection_duration_seconds",
        kind: "histogram",
        labels: &[],
        bounds: LIFE,
        help: "Duration in seconds a proxied end-to-end connection was established (post-dial) before being closed.",
    },
    Family {
        name: "konnectivity_network_proxy_server_culled_leases_count",
        kind: "counter",
        labels: &[],
        bounds: &[],
        help: "Count of expired leases that the lease garbage collection controller has culled.",
    },
    Family {
        name: "konnectivity_network_proxy_server_dial_duration_seconds",
        kind: "histogram",
        labels: &[],
        bounds: LATENCY,
        help: "Latency of dial to the remote endpoint in seconds",
    },
    Family {
        name: "konnectivity_network_proxy_server_dial_failure_count",
        kind: "counter",
        labels: &["reason"],
        bounds: &[],
        help: "Number of dial failures observed. Multiple failures can occur for a single dial request.",
    },
    Family {
        name: "konnectivity_network_proxy_server_established_connections",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Current number of established end-to-end connections (post-dial).",
    },
    Family {
        name: "konnectivity_network_proxy_server_frontend_write_duration_seconds",
        kind: "histogram",
        labels: &[],
        bounds: LATENCY,
        help: "Latency of write to the frontend in seconds",
    },
    Family {
        name: "konnectivity_network_proxy_server_full_receive_channels",
        kind: "gauge",
        labels: &["service_method"],
        bounds: &[],
        help: "Number of current connections blocked by a full receive channel, partitioned by service method.",
    },
    Family {
        name: "konnectivity_network_proxy_server_grpc_connections",
        kind: "gauge",
        labels: &["service_method"],
        bounds: &[],
        help: "Number of current grpc connections, partitioned by service method.",
    },
    Family {
        name: "konnectivity_network_proxy_server_http_connections",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Number of current HTTP CONNECT connections",
    },
    Family {
        name: "konnectivity_network_proxy_server_lease_delete_latency_seconds",
        kind: "histogram",
        labels: &["http_status_code"],
        bounds: DEFAULT,
        help: "Latency of lease deletion calls by the garbage collection controller in seconds.",
    },
    Family {
        name: "konnectivity_network_proxy_server_lease_delete_total",
        kind: "counter",
        labels: &["http_status_code", "reason"],
        bounds: &[],
        help: "Count of lease delection calls by the garbage collection controller. Labeled by HTTP status code and reason.",
    },
    Family {
        name: "konnectivity_network_proxy_server_lease_list_latency_seconds",
        kind: "histogram",
        labels: &["http_status_code"],
        bounds: DEFAULT,
        help: "Latency of lease list calls by the garbage collection controller in seconds.",
    },
    Family {
        name: "konnectivity_network_proxy_server_lease_list_total",
        kind: "counter",
        labels: &["http_status_code", "reason"],
        bounds: &[],
        help: "Count of lease deletion calls by the garbage collection controller. Labeled by HTTP status code and reason.",
    },
    Family {
        name: "konnectivity_network_proxy_server_pending_backend_dials",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Current number of pending backend dial requests",
    },
    Family {
        name: "konnectivity_network_proxy_server_ready_backend_connections",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Number of konnectivity agent connected to the proxy server. DEPRECATED, please use ready_backends",
    },
    Family {
        name: "konnectivity_network_proxy_server_ready_backends",
        kind: "gauge",
        labels: &["proxy_strategy"],
        bounds: &[],
        help: "Number of konnectivity agent connected to the proxy server",
    },
    Family {
        name: "konnectivity_network_proxy_server_stream_errors_total",
        kind: "counter",
        labels: &["code", "packet_type", "segment"],
        bounds: &[],
        help: "Count of gRPC stream errors, by segment, grpc Code, packet type. (example: from_agent, Code.Unavailable, DIAL_RSP)",
    },
    Family {
        name: "konnectivity_network_proxy_server_stream_packets_total",
        kind: "counter",
        labels: &["packet_type", "segment"],
        bounds: &[],
        help: "Count of packets processed, by segment and packet type (example: from_client, DIAL_REQ)",
    },
];

/// The agent's.
pub(crate) const AGENT: &[Family] = &[
    Family {
        name: "konnectivity_network_proxy_agent_dial_duration_seconds",
        kind: "histogram",
        labels: &[],
        bounds: AGENT_LATENCY,
        help: "Latency of dial to the remote endpoint in seconds",
    },
    Family {
        name: "konnectivity_network_proxy_agent_endpoint_dial_failure_total",
        kind: "counter",
        labels: &["reason"],
        bounds: &[],
        help: "Number of failures dialing the remote endpoint, by reason (example: timeout).",
    },
    Family {
        name: "konnectivity_network_proxy_agent_known_server_count",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Current number of servers agent is trying to connect to.",
    },
    Family {
        name: "konnectivity_network_proxy_agent_lease_list_latency_seconds",
        kind: "histogram",
        labels: &["http_response_code"],
        bounds: AGENT_LATENCY,
        help: "Latency of server lease listing in seconds",
    },
    Family {
        name: "konnectivity_network_proxy_agent_lease_lists_total",
        kind: "counter",
        labels: &["http_response_code", "reason"],
        bounds: &[],
        help: "Count of server lease list calls made by the agent to the k8s apiserver, labeled by HTTP response code and reason",
    },
    Family {
        name: "konnectivity_network_proxy_agent_lease_watches_total",
        kind: "counter",
        labels: &["http_response_code", "reason"],
        bounds: &[],
        help: "Count of server lease watch calls made by the agent to the k8s apiserver, labeled by HTTP response code and reason",
    },
    Family {
        name: "konnectivity_network_proxy_agent_open_endpoint_connections",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Current number of open endpoint connections.",
    },
    Family {
        name: "konnectivity_network_proxy_agent_open_server_connections",
        kind: "gauge",
        labels: &[],
        bounds: &[],
        help: "Current number of open server connections.",
    },
    Family {
        name: "konnectivity_network_proxy_agent_server_connection_failure_count",
        kind: "counter",
        labels: &["direction"],
        bounds: &[],
        help: "Count of failures to send to or receive from the proxy server, labeled by the direction (from_server or to_server). DEPRECATED, please use stream_events_error_total",
    },
    Family {
        name: "konnectivity_network_proxy_agent_stream_errors_total",
        kind: "counter",
        labels: &["code", "packet_type", "segment"],
        bounds: &[],
        help: "Count of gRPC stream errors, by segment, grpc Code, packet type. (example: from_agent, Code.Unavailable, DIAL_RSP)",
    },
    Family {
        name: "konnectivity_network_proxy_agent_stream_packets_total",
        kind: "counter",
        labels: &["packet_type", "segment"],
        bounds: &[],
        help: "Count of packets processed, by segment and packet type (example: from_client, DIAL_REQ)",
    },
];
