//! Names, types, labels, buckets and help texts.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus::Registry;
use tunnel::packet_counters::StreamError;
use tunnel::relay::Ending;
use tunnel::transport::Link;
use tunnel_agent::metrics as agent;
use tunnel_kube::leases::{LeaseEvent, Outcome};
use tunnel_program::exposition;
use tunnel_program::metering::Described;
use tunnel_proto::packet_kind::PacketKind;
use tunnel_proto::refusal::RefusalKind;
use tunnel_server::dial::error::DialError;
use tunnel_server::metrics as server;
use tunnel_server::metrics::ClientKind;
use tunnel_tests::{Cluster, Frontend, Metrics, Target, get, node};

use crate::konnectivity::{AGENT, Family, SERVER};

const MOMENT: Duration = Duration::from_millis(1);

/// An answer of the Kubernetes API.
fn answer(code: u16, reason: &str) -> Outcome {
    Outcome { code, reason: reason.to_owned(), latency: MOMENT }
}

fn number(text: &str) -> f64 {
    text.parse().unwrap()
}

/// Asserts that the metrics under Konnectivity's names are exactly Konnectivity's.
fn assert_complete(described: &[Described], families: &[Family]) {
    let ours: Vec<&Described> =
        described.iter().filter(|made| made.name.starts_with("konnectivity_")).collect();
    for made in &ours {
        assert!(families.iter().any(|family| family.name == made.name), "{} does not exist there", made.name);
    }
    for family in families {
        let made: Vec<_> = ours.iter().filter(|made| made.name == family.name).collect();
        assert_eq!(made.len(), 1, "{}", family.name);
        let mut labels = made[0].labels.clone();
        labels.sort_unstable();
        assert_eq!((made[0].kind, made[0].help), (family.kind, family.help), "{}", family.name);
        assert_eq!(labels, family.labels, "{}", family.name);
        let bounds: Vec<f64> = family.bounds.iter().copied().map(number).collect();
        assert_eq!(made[0].buckets, bounds, "{}", family.name);
    }
}

/// Asserts that a scrape equals Konnectivity's to the letter. All families have
/// samples.
fn assert_exposed(text: &str, families: &[Family]) {
    for Family { name, kind, labels, bounds, help } in families {
        assert!(
            text.contains(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name}")),
            "{name}:\n{text}"
        );
        let sample = text.lines().find(|line| line.starts_with(name)).unwrap();
        let mut found: Vec<&str> =
            sample.split(['{', ',']).filter_map(|pair| Some(pair.split_once("=\"")?.0)).collect();
        found.retain(|label| *label != "le");
        found.sort_unstable();
        assert_eq!(found, *labels, "{sample}");
        let mut told: Vec<&str> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with(&format!("{name}_bucket"))) {
            let bound = line.split_once("le=\"").unwrap().1.split_once('"').unwrap().0;
            if !told.contains(&bound) {
                told.push(bound);
            }
        }
        let wanted: Vec<&str> =
            bounds.iter().copied().chain((*kind == "histogram").then_some("+Inf")).collect();
        assert_eq!(told, wanted, "{name}");
    }
}

#[test]
fn the_server_has_all_metrics_of_konnectivity_to_the_letter() {
    let registry = Registry::new();
    let (metrics, described) = server::Metrics::described(&registry).unwrap();
    assert_complete(&described, SERVER);

    let agents = tunnel_server::agents::Registry::default();
    server::Backends::register(&registry, agents, &[tunnel_server::route::Strategy::Default]).unwrap();
    metrics.dial_failed(&DialError::NoAgent { hint: String::new() });
    for call in [LeaseEvent::Deleted, LeaseEvent::Listed] {
        metrics.lease_event(&call(answer(200, "")));
    }
    metrics.packets_of_agent().received.failed(StreamError::Canceled, Some(PacketKind::Data));
    assert_exposed(&exposition::encode(&registry.gather()), SERVER);
}

#[test]
fn the_agent_has_all_metrics_of_konnectivity_to_the_letter() {
    let registry = Registry::new();
    let (metrics, described) = agent::Metrics::described(&registry).unwrap();
    assert_complete(&described, AGENT);

    metrics.dial_failed(RefusalKind::Timeout);
    metrics.tunnel_ended(Link::H2, true);
    for call in [LeaseEvent::Listed, LeaseEvent::Watched] {
        metrics.lease_event(&call(answer(200, "")));
    }
    metrics.packets().received.failed(StreamError::Unavailable, None);
    assert_exposed(&exposition::encode(&registry.gather()), AGENT);
}

/// Scrapes a program, and asserts that its families equal Konnectivity's to the letter.
/// Returns the names, without prefix, of families without samples, as Konnectivity has
/// them.
async fn without_samples(health: SocketAddr, families: &[Family], prefix: &str) -> Vec<&'static str> {
    let (_, text) = get(health, "/metrics").await.unwrap();
    let (there, missing): (Vec<Family>, Vec<Family>) =
        families.iter().partition(|family| text.lines().any(|line| line.starts_with(family.name)));
    assert_exposed(&text, &there);
    missing.iter().map(|family| family.name.strip_prefix(prefix).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_server_and_its_agent_expose_them() {
    let cluster = Cluster::on(Link::Quic).await;
    let echo = Target::echo(node(Link::Quic)).await;
    cluster.server.connect(Frontend::GrpcUnix, &echo).await.close().await.unwrap();
    assert_eq!(
        without_samples(cluster.server.health, SERVER, "konnectivity_network_proxy_server_").await,
        [
            "dial_failure_count",
            "lease_delete_latency_seconds",
            "lease_delete_total",
            "lease_list_latency_seconds",
            "lease_list_total",
            "stream_errors_total"
        ]
    );
    assert_eq!(
        without_samples(cluster.agents[0].health, AGENT, "konnectivity_network_proxy_agent_").await,
        [
            "endpoint_dial_failure_total",
            "lease_list_latency_seconds",
            "lease_lists_total",
            "lease_watches_total",
            "server_connection_failure_count",
            "stream_errors_total"
        ]
    );
    cluster.finish().await;
}

#[test]
fn lease_calls_are_counted_under_their_status_and_reason() {
    let registry = Registry::new();
    let metrics = server::Metrics::register(&registry).unwrap();
    metrics.lease_event(&LeaseEvent::Listed(answer(200, "")));
    metrics.lease_event(&LeaseEvent::Listed(answer(403, "Forbidden")));
    metrics.lease_event(&LeaseEvent::Deleted(answer(409, "Conflict")));
    metrics.lease_event(&LeaseEvent::Deleted(answer(200, "")));
    metrics.lease_event(&LeaseEvent::Culled);
    let metrics = Metrics::parse(&exposition::encode(&registry.gather()));
    let samples = |name: &str| {
        let samples = metrics.samples(&format!("konnectivity_network_proxy_server_{name}"));
        samples.into_iter().map(|(labels, value)| format!("{labels} {value}")).collect::<Vec<_>>()
    };
    assert_eq!(
        samples("lease_list_total"),
        ["{http_status_code=\"200\",reason=\"\"} 1", "{http_status_code=\"403\",reason=\"Forbidden\"} 1"]
    );
    assert_eq!(
        samples("lease_delete_total"),
        ["{http_status_code=\"200\",reason=\"\"} 1", "{http_status_code=\"409\",reason=\"Conflict\"} 1"]
    );
    assert_eq!(
        samples("lease_list_latency_seconds_count"),
        ["{http_status_code=\"200\"} 1", "{http_status_code=\"403\"} 1"]
    );
    assert_eq!(samples("culled_leases_count"), [" 1"]);

    let registry = Registry::new();
    let metrics = agent::Metrics::register(&registry).unwrap();
    metrics.lease_event(&LeaseEvent::Listed(answer(200, "")));
    metrics.lease_event(&LeaseEvent::Watched(answer(200, "")));
    metrics.lease_event(&LeaseEvent::Watched(answer(0, "Timeout")));
    let metrics = Metrics::parse(&exposition::encode(&registry.gather()));
    // Konnectivity counts watches as lists.
    assert_eq!(metrics.sum("konnectivity_network_proxy_agent_lease_lists_total", &[]), 1);
    assert_eq!(metrics.sum("konnectivity_network_proxy_agent_lease_watches_total", &[]), 2);
}

/// An event that belongs to both sets is counted once in each.
#[test]
fn the_methods_count_in_both_sets() {
    let registry = Registry::new();
    let metrics = server::Metrics::register(&registry).unwrap();
    let times = server::DialTimes { open: MOMENT, answer: MOMENT, total: 2 * MOMENT };
    metrics.dialed(Link::H2, &times);
    let lasted = server::Lifetime { asked: 3 * MOMENT, established: MOMENT };
    metrics.closed(ClientKind::Grpc, Link::H2, Some(&Ending::Clean), &lasted);
    let pending = metrics.pending_dial();
    let scrape = || Metrics::parse(&exposition::encode(&registry.gather()));
    let (ours, theirs) = ("tunnel_server", "konnectivity_network_proxy_server");
    for name in ["pending_dials", "connection_duration_seconds_count"] {
        assert_eq!(scrape().value(&format!("{ours}_{name}")), 1, "{name}");
    }
    for name in ["pending_backend_dials", "connection_duration_seconds_count", "dial_duration_seconds_count"]
    {
        assert_eq!(scrape().value(&format!("{theirs}_{name}")), 1, "{name}");
    }
    drop(pending);
    assert_eq!(scrape().value("tunnel_server_pending_dials"), 0);
    assert_eq!(scrape().value("konnectivity_network_proxy_server_pending_backend_dials"), 0);
    assert_eq!(scrape().sum("tunnel_server_dial_stage_duration_seconds_count", &["link=\"h2\""]), 2);

    let registry = Registry::new();
    let metrics = agent::Metrics::register(&registry).unwrap();
    metrics.set_servers(2, 3);
    let scrape = Metrics::parse(&exposition::encode(&registry.gather()));
    for (ours, theirs, value) in
        [("servers_connected", "open_server_connections", 2), ("servers_wanted", "known_server_count", 3)]
    {
        assert_eq!(scrape.value(&format!("tunnel_agent_{ours}")), value);
        assert_eq!(scrape.value(&format!("konnectivity_network_proxy_agent_{theirs}")), value);
    }
}
