//! The program's side of the admin socket: HTTP/1 on a Unix socket, within limits.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};
use tunnel::drain::Drain;
use tunnel::listen::{ACCEPT_PAUSE, Observer, Place, UnixSocket};
use tunnel_program::warn_seldom;

use crate::api::keep_log_level;

/// Connections at once: people and their scripts. More wait in the kernel.
const CONNECTIONS: usize = 16;

/// Time for a request's head. The peer is on this host.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Time for a connection: the longest probe, and an answer that is read slowly.
const LIMIT: Duration = Duration::from_secs(180);

/// Longest head of a request, in bytes; the least that hyper takes.
const MAX_HEAD: usize = 8 * 1024;

/// Binds the admin socket, with mode 0600; an empty path is none. `observer` hears of its file.
///
/// # Errors
/// When a process listens at the path, or it cannot be used.
pub fn bind(path: &Path, observer: Observer) -> Result<Option<UnixSocket>, BindError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let failed = |why| BindError { path: path.display().to_string(), why };
    UnixSocket::bind(Place::private(path.to_owned()), observer).map(Some).map_err(failed)
}

/// The admin socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("--admin-socket={path}: {why}")]
pub struct BindError {
    path: String,
    why: std::io::Error,
}

/// Serves until the drain is killed, so that a status also tells of a drain.
pub fn serve(mut socket: UnixSocket, routes: Router, drain: &Drain) {
    let until = drain.clone();
    info!("serving status, probe, doctor and log-level on the admin socket");
    keep_log_level(drain);
    drain.spawn("admin socket", async move {
        tokio::select! {
            () = until.killed() => {}
            () = accept(&mut socket, &routes, &until) => {}
        }
    });
}

async fn accept(socket: &mut UnixSocket, routes: &Router, drain: &Drain) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match poll_fn(|cx| socket.poll_accept(cx)).await {
            Ok(stream) => {
                let (connection, until) = (connection(stream, routes.clone()), drain.clone());
                drain.spawn("admin connection", async move {
                    tokio::select! {
                        () = until.killed() => {}
                        _ = timeout(LIMIT, connection) => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn_seldom!(("accept", "admin socket"), %error, "cannot accept on the admin socket");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: UnixStream, routes: Router) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD);
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = Box::pin(served).await {
        debug!(%error, "a connection to the admin socket failed");
    }
}
