//! Accepting connections where an accept may fail for lack of file descriptors or memory.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use tokio::net::TcpStream;
use tokio::time::sleep;
use tunnel::listen::ACCEPT_PAUSE;
use tunnel_program::warn_seldom;

use crate::metrics::Metrics;

/// Waits for the next connection of a listener. A failure is counted, logged (seldom) and followed by
/// a pause. Cancel safe.
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
                warn_seldom!(("accept", listener), %error, listener, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a peer sends anything before it ends or breaks the connection, for which it waits. Health
/// checks of load balancers send nothing. Cancel safe.
pub(crate) async fn says_something(tcp: &TcpStream) -> bool {
    matches!(tcp.peek(&mut [0]).await, Ok(1..))
}
