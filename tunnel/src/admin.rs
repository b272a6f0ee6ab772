//! Health and metrics over HTTP.
//!
//! `/healthz` and `/livez` say that the program runs; `/readyz` (and `/ready`)
//! whether it is of use, with `?verbose` for the list of checks; `/metrics` is
//! Prometheus text.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::Registry;
use tokio::net::TcpListener;

use crate::drain::Drain;
use crate::exposition;

/// One thing that has to be true for the program to be of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What is missing, if something is.
    pub failure: Option<String>,
    /// What else is to be said of it when nothing is missing.
    pub note: Option<String>,
}

/// Answers "is it of use?".
pub type Readiness = Arc<dyn Fn() -> Vec<Check> + Send + Sync>;

#[derive(Clone)]
struct Admin {
    registry: Registry,
    readiness: Readiness,
    not_ready: StatusCode,
}

/// The health listener's routes. `not_ready` is the status for "not ready":
/// Konnectivity's server says 500, its agent 503.
pub fn health_routes(registry: Registry, readiness: Readiness, not_ready: StatusCode) -> Router {
    let admin = Admin { registry, readiness, not_ready };
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/livez", get(async || "ok"))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(admin)
}

/// The admin listener's routes.
pub fn admin_routes(registry: Registry) -> Router {
    let admin = Admin { registry, readiness: Arc::new(Vec::new), not_ready: StatusCode::SERVICE_UNAVAILABLE };
    Router::new().route("/metrics", get(metrics)).with_state(admin)
}

/// Serves until the drain kills.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve(listener: TcpListener, routes: Router, drain: Drain) -> io::Result<()> {
    axum::serve(listener, routes).with_graceful_shutdown(async move { drain.killed().await }).await
}

async fn ready(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let checks = (admin.readiness)();
    let failed: Vec<&Check> = checks.iter().filter(|check| check.failure.is_some()).collect();
    let status = if failed.is_empty() { StatusCode::OK } else { admin.not_ready };
    let verbose =
        query.is_some_and(|q| q.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    if failed.is_empty() && !verbose {
        return (status, "ok").into_response();
    }
    let mut text = String::from("[+]ping ok\n");
    for check in &checks {
        match (&check.failure, &check.note) {
            (None, None) => text.push_str(&format!("[+]{} ok\n", check.name)),
            (None, Some(note)) => text.push_str(&format!("[+]{} ok: {note}\n", check.name)),
            (Some(why), _) => text.push_str(&format!("[-]{} failed: {why}\n", check.name)),
        }
    }
    text.push_str(if failed.is_empty() { "check passed\n" } else { "check failed\n" });
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let text = exposition::encode(&admin.registry.gather());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
