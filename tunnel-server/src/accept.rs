//! Accepting connections where an accept may fail for lack of file descriptors or memory.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::time::sleep;
use tracing::warn;
use tunnel::listen::ACCEPT_PAUSE;

use crate::metrics::Metrics;

/// Waits for the next connection of a listener. A failure is counted, logged and followed by a
/// pause. Cancel safe.
pub(crate) async fn accept<C>(
    metrics: &Metrics,
    listener: &'static str,
    mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<C>>,
) -> C {
    loop {
        match poll_fn(&mut accept).await {
            Ok(connection) => return connection,
            Err(error) => {
                metrics.accept_failed(listener);
                warn!(%error, listener, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
