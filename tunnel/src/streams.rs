//! The number of streams of a tunnel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the streams of one tunnel. `some` and [`Streams::none`] may have one
/// waiter each at a time.
#[derive(Debug, Default)]
pub struct Streams {
    open: AtomicUsize,
    began: Notify,
    ended: Notify,
}

impl Streams {
    /// Counts one stream until the guard is dropped.
    pub fn count(self: &Arc<Self>) -> StreamGuard {
        if self.open.fetch_add(1, Ordering::AcqRel) == 0 {
            self.began.notify_one();
        }
        StreamGuard(Arc::clone(self))
    }

    /// Open streams, those being dialled included.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Waits until there is a stream. Cancel safe.
    pub(crate) async fn some(&self) {
        while self.open() == 0 {
            self.began.notified().await;
        }
    }

    /// Waits until a first stream is opened. May be ready once too early. Cancel safe.
    pub(crate) async fn began(&self) {
        self.began.notified().await;
    }

    /// Waits until there is no stream. Cancel safe.
    pub async fn none(&self) {
        while self.open() > 0 {
            self.ended.notified().await;
        }
    }
}

/// One counted stream.
#[derive(Debug)]
pub struct StreamGuard(Arc<Streams>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_one();
        }
    }
}
