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

#[cfg(test)]
mod tests {
    use prometheus::Registry;
    use tokio::time::{Instant, advance};
    use tunnel_program::exposition;
    use tunnel_program::seldom::{Line, turn};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_slowed_down_and_a_flood_is_one_line() {
        const FAILURES: u32 = 100;
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let (began, mut failures) = (Instant::now(), 0);
        let accepted = accept(&metrics, "full", |_| {
            failures += 1;
            Poll::Ready(if failures > FAILURES { Ok("connection") } else { Err(io::ErrorKind::Other.into()) })
        });
        assert_eq!(accepted.await, "connection");
        assert!(began.elapsed() >= FAILURES * ACCEPT_PAUSE, "{:?}", began.elapsed());
        let counted = format!("tunnel_server_accept_errors_total{{listener=\"full\"}} {FAILURES}\n");
        let metrics = exposition::encode(&registry.gather());
        assert!(metrics.contains(&counted), "{metrics}");
        // The next line would tell of all but the first.
        advance(std::time::Duration::from_secs(10)).await;
        let suppressed = Some(u64::from(FAILURES - 1));
        assert_eq!(turn(("accept", "full")), Some(Line { suppressed }));
    }
}
