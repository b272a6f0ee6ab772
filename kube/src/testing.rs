//! A fake API behind a real client, without a network, for paused time.

use std::cell::OnceCell;

use axum::body::Body;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::time::Instant;
use tower::ServiceExt as _;
use tunnel_kube_fake::FakeApi;

use crate::access::{Access, Cluster};

/// A cluster whose API is in this process.
pub(crate) fn cluster(api: &FakeApi, qps: f32, burst: u32) -> Cluster {
    let routes = api.router();
    let service = routes.map_request(|request: http::Request<kube::client::Body>| request.map(Body::new));
    let rate = Access { kubeconfig: None, qps, burst }.rate();
    let client = Client::new(service, "default");
    Cluster { current: tokio::sync::watch::Sender::new(client.clone()), client, clock: now, rate }
}

/// The cluster's time as the paused clock has it.
pub(crate) fn now() -> Timestamp {
    // Each test has a thread and a clock of its own.
    thread_local! { static START: OnceCell<Instant> = const { OnceCell::new() } }
    let start = START.with(|start| *start.get_or_init(Instant::now));
    let passed = Instant::now().saturating_duration_since(start);
    Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1) + SignedDuration::try_from(passed).unwrap()
}
