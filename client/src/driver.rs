//! The task under an HTTP/2 connection: its start, and its end in bounded time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a connection nobody uses any more may take to send its last frames
/// (resets, GOAWAY) to a peer that reads slowly.
const LINGER: Duration = Duration::from_secs(1);

/// Held by every user of a connection. When the last one is dropped, the task
/// has [`LINGER`] to finish.
#[derive(Debug)]
pub(crate) struct Driver {
    _gone: oneshot::Sender<()>,
}

impl Driver {
    /// Runs `connection` until it ends. Its result is not kept: whatever ends
    /// a connection is also reported to every stream on it.
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
