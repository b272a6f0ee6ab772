//! Health and metrics over HTTP.
//!
//! `/healthz` and `/livez` answer while the program need not be started anew. `/readyz` and `/ready`
//! report readiness, with `?verbose` the list of checks; a program may have further conditions that a
//! request asks for. `/metrics` is Prometheus
//! text. The admin listener also has `/debug/pprof/`, with `--enable-profiling`.

mod profiling;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::RawQuery;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::exposition;
use crate::process::file_limit;
use crate::warn_seldom;
use tunnel::drain::Drain;
use tunnel::listen::{ACCEPT_PAUSE, Crowd};
use turns::Turns;

/// Connections at once: probes and scrapes. With fewer, a few monitoring systems push each other out;
/// with more, a client that does not read its answers takes 200 KB for each.
const CONNECTIONS: usize = 64;

/// The part of the files of this process that they may take. A larger part leaves fewer to clients
/// and agents on hosts with a low limit.
const FILES: usize = 32;

/// Time for a request's head. Less cuts scrapes on slow networks; more keeps silent connections.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Time for a connection. Less cuts scrapes on slow networks; more keeps answers that nobody reads.
const LIMIT: Duration = Duration::from_secs(300);

/// Longest head of a request, in bytes. Browsers with cookies need more than the least that hyper
/// takes, which is 8 KiB; more is memory for strangers.
const MAX_HEAD: usize = 16 * 1024;

/// One condition of readiness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The name in the list of checks.
    pub name: &'static str,
    /// Why the condition does not hold; `None` if it does.
    pub failure: Option<String>,
    /// A remark for the verbose list, shown while the condition holds.
    pub note: Option<String>,
}

/// Evaluates the conditions of readiness that a request asks for.
pub type Readiness = Arc<dyn Fn(Query<'_>) -> Vec<Check> + Send + Sync>;

/// The query of a request for readiness.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    /// The values of a parameter, as they are written.
    pub fn values(self, name: &str) -> impl Iterator<Item = &'a str> {
        let parts = self.0.into_iter().flat_map(|query| query.split('&'));
        parts.filter_map(move |part| part.strip_prefix(name)?.strip_prefix('='))
    }
}

/// Says why the program is to be started anew; `None` if it is not.
pub type Liveness = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// How `/readyz` answers while the program is not ready. Konnectivity's programs differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// The agent: status 503 and the list of checks.
    List,
    /// The server: status 500 and the first failure, in one line.
    Reason,
}

/// The health listener's routes.
pub fn health_routes(
    registry: Registry,
    liveness: Liveness,
    readiness: Readiness,
    not_ready: NotReady,
) -> Router {
    let live = get(async move || match liveness() {
        None => "ok".into_response(),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
    });
    let ready = get(async move |RawQuery(query): RawQuery| {
        ready(&readiness(Query(query.as_deref())), not_ready, query.as_deref())
    });
    Router::new()
        .route("/healthz", live.clone())
        .route("/livez", live)
        .route("/readyz", ready.clone())
        .route("/ready", ready)
        .route("/metrics", metrics(registry))
}

/// The answer to `/metrics` on the admin listener.
#[derive(Debug, Clone)]
pub enum AdminMetrics {
    /// The metrics, as with Konnectivity's server.
    Here(Registry),
    /// A redirect to the health listener's port, as with Konnectivity's agent.
    On(u16),
}

/// The admin listener's routes, with `/debug/pprof/` if `profiling`.
pub fn admin_routes(of: AdminMetrics, profiling: bool) -> Router {
    let routes = match of {
        AdminMetrics::Here(registry) => Router::new().route("/metrics", metrics(registry)),
        AdminMetrics::On(port) => Router::new().route(
            "/metrics",
            get(async move |uri: Uri, headers: HeaderMap| {
                moved(&headers, port, uri.path_and_query().map_or("/metrics", |path| path.as_str()))
            }),
        ),
    };
    if profiling { routes.merge(profiling::routes()) } else { routes }
}

/// Serves until the drain is killed. A connection that is one too many takes the place of the oldest
/// of the host that holds the most: a flood does not keep probes out.
pub async fn serve(listener: TcpListener, routes: Router, drain: Drain) {
    let crowd = Crowd::new(CONNECTIONS.min(file_limit() / FILES));
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.killed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn_seldom!(("accept", "health or admin port"), %error, "cannot accept a connection for health or metrics");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (spot, until) = (crowd.enter(from.ip()), drain.clone());
        let connection = connection(tcp, routes.clone());
        drain.spawn("admin connection", async move {
            tokio::select! {
                biased;
                () = until.killed() => {}
                () = spot.lost() => {}
                _ = timeout(LIMIT, connection) => {}
            }
        });
    }
}

async fn connection(tcp: TcpStream, routes: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
    let served = builder.serve_connection(TokioIo::new(tcp), TowerToHyperService::new(routes));
    if let Err(error) = Box::pin(served).await {
        debug!(%error, "a connection for health or metrics failed");
    }
}

fn ready(checks: &[Check], not_ready: NotReady, query: Option<&str>) -> Response {
    let failure = checks.iter().find_map(|check| check.failure.clone());
    let verbose =
        query.is_some_and(|q| q.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    match (failure, not_ready) {
        (None, _) if verbose => format!("{}check passed\n", list(checks)).into_response(),
        (None, _) => "ok".into_response(),
        (Some(_), NotReady::List) => (StatusCode::SERVICE_UNAVAILABLE, list(checks)).into_response(),
        (Some(why), NotReady::Reason) => {
            (StatusCode::INTERNAL_SERVER_ERROR, if verbose { list(checks) } else { why }).into_response()
        }
    }
}

fn list(checks: &[Check]) -> String {
    let mut text = String::from("[+]ping ok\n");
    for check in checks {
        match &check.failure {
            None => text.push_str(&format!("[+]{} ok\n", check.name)),
            Some(why) => text.push_str(&format!("[-]{} failed: {why}\n", check.name)),
        }
        if let (None, Some(note)) = (&check.failure, &check.note) {
            text.push_str(&format!("    {note}\n"));
        }
    }
    text
}

/// Redirects to the same host on another port.
fn moved(headers: &HeaderMap, port: u16, path: &str) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = match host.rsplit_once(':') {
        // The last colon of a bare IPv6 address is in brackets.
        Some((host, port)) if !port.ends_with(']') => host,
        Some(_) | None => host,
    };
    if host.is_empty() {
        return (StatusCode::BAD_REQUEST, "the request has no Host header\n").into_response();
    }
    let there = format!("http://{host}:{port}{path}");
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, there)]).into_response()
}

/// Answers one request at a time, because the metrics of many tunnels are the work of milliseconds.
fn metrics(registry: Registry) -> MethodRouter {
    let turns = Turns::default();
    get(async move || {
        let turn = turns.next().await;
        let began = Instant::now();
        let text = exposition::encode(&registry.gather());
        turn.end(began.elapsed());
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
    })
}
