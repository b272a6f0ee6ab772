//! The level of the log, of the process as a whole.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use tunnel::drain::Drain;
use tunnel_program::loglevel::{Levels, levels};

use super::{LOG_LEVEL, MAX_REQUEST, json};
use crate::report::{LogLevel, LogLevelRequest};

pub(super) fn routes() -> Router {
    Router::new().route(LOG_LEVEL, get(async || with(current)).post(change))
}

/// Ends changes of the level in time, until the kill.
pub(crate) fn keep(drain: &Drain) {
    let Some(levels) = levels() else { return };
    let until = drain.clone();
    drain.spawn("log level", async move {
        tokio::select! {
            () = until.killed() => {}
            () = levels.keep() => {}
        }
    });
}

fn with(answer: impl FnOnce(&Levels) -> Response) -> Response {
    let none = || (StatusCode::NOT_IMPLEMENTED, "this program has no log of its own\n").into_response();
    levels().map_or_else(none, answer)
}

fn current(levels: &Levels) -> Response {
    let now = levels.current();
    // Rounded up, so that a change that holds has time left.
    let left = now.left.map(|left| left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
    json(&LogLevel { filter: now.filter, flags: now.flags, left })
}

async fn change(body: Body) -> Response {
    let Ok(body) = to_bytes(body, MAX_REQUEST).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "the request is too long\n").into_response();
    };
    let LogLevelRequest { filter, seconds } = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("no log level: {error}\n")).into_response(),
    };
    with(|levels| {
        let changed = match &filter {
            Some(filter) => levels.change(filter, Duration::from_secs(seconds)),
            None => levels.restore(),
        };
        match changed {
            Ok(()) => current(levels),
            Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        }
    })
}
