//! The task under an HTTP/2 connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// Time for the last frames (RST_STREAM, GOAWAY) of a connection without users.
/// Shorter, and a slow peer misses the reset of a stream; longer, and a peer
/// that does not read holds the task.
const LINGER: Duration = Duration::from_secs(1);

/// Held by every user of a connection. After the last drop, the task has
/// [`LINGER`] to finish.
#[derive(Debug)]
pub(crate) struct Driver {
    _gone: oneshot::Sender<()>,
}

impl Driver {
    /// Runs `connection` until it ends. Its result is dropped, because every
    /// stream on the connection gets the same error.
    #[expect(clippy::disallowed_methods, reason = "the task is tied to the driver it returns")]
    pub(crate) fn start<F>(connection: F) -> Arc<Self>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        let (sender, gone) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                biased;
                _ = &mut connection => return,
                _ = gone => {}
            }
            let _ = timeout(LINGER, connection).await;
        });
        Arc::new(Self { _gone: sender })
    }
}
