//! The HTTP API on the admin socket. Its paths have a version; fields are only added.

mod log_level;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde::Serialize;

use crate::report::{ProbeReport, ProbeRequest, Setup, Status};
pub(crate) use log_level::keep as keep_log_level;

/// `GET`: a [`Status`].
pub const STATUS: &str = "/v1/status";

/// `GET`: a [`Setup`].
pub const SETUP: &str = "/v1/setup";

/// `POST` of a [`ProbeRequest`]: a [`ProbeReport`].
pub const PROBE: &str = "/v1/probe";

/// `GET`: a [`LogLevel`]. `POST` of a [`LogLevelRequest`]: the same.
///
/// [`LogLevel`]: crate::report::LogLevel
/// [`LogLevelRequest`]: crate::report::LogLevelRequest
pub const LOG_LEVEL: &str = "/v1/log-level";

/// Longest request, in bytes. A target has under 300.
const MAX_REQUEST: usize = 16 * 1024;

/// The answers of a program. A dropped future may be given up at any await.
pub trait Answers: Send + Sync + 'static {
    /// The status at this moment.
    fn status(&self) -> impl Future<Output = Status> + Send;

    /// The settings that `doctor` checks.
    fn setup(&self) -> impl Future<Output = Setup> + Send;

    /// Dials a target, within the limits of the request.
    fn probe(&self, request: ProbeRequest) -> impl Future<Output = ProbeReport> + Send;
}

/// The routes of the admin socket.
pub fn routes<A: Answers>(answers: A) -> Router {
    Router::new()
        .route(STATUS, get(async |State(of): State<Arc<A>>| json(&of.status().await)))
        .route(SETUP, get(async |State(of): State<Arc<A>>| json(&of.setup().await)))
        .route(PROBE, post(probe::<A>))
        .with_state(Arc::new(answers))
        .merge(log_level::routes())
}

async fn probe<A: Answers>(State(of): State<Arc<A>>, body: Body) -> Response {
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the request is too long\n").into_response();
    };
    match serde_json::from_slice(&body) {
        Ok(request) => json(&of.probe(request).await),
        Err(error) => (StatusCode::BAD_REQUEST, format!("not a probe: {error}\n")).into_response(),
    }
}

fn json(content: &impl Serialize) -> Response {
    match serde_json::to_vec(content) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
