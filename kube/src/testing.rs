//! A fake API behind a real client, without a network, for paused time.

use axum::body::Body;
use kube::Client;
use tower::ServiceExt as _;
use tunnel_kube_fake::FakeApi;

use crate::access::Cluster;

/// A cluster whose API is in this process.
pub(crate) fn cluster(api: &FakeApi, qps: f32, burst: u32) -> Cluster {
    let routes = api.router();
    let service = routes.map_request(|request: http::Request<kube::client::Body>| request.map(Body::new));
    Cluster::of(Client::new(service, "default"), qps, burst)
}
