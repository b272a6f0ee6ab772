//! How many streams an agent allows its server to open.
//!
//! quinn takes memory for every stream that it allows, so an agent allows few at first and
//! raises the grant as it is used.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Streams that an agent allows at first.
pub(super) const FIRST_STREAMS: u32 = 256;

/// Most streams that an agent allows. Fewer would refuse dials of busy agents.
const MAX_STREAMS: u32 = 1 << 16;

/// The grant of one tunnel, in streams.
#[derive(Debug)]
pub(super) struct Grant {
    granted: AtomicU32,
    open: AtomicU32,
}

impl Default for Grant {
    fn default() -> Self {
        Self { granted: AtomicU32::new(FIRST_STREAMS), open: AtomicU32::new(0) }
    }
}

impl Grant {
    /// Counts an accepted stream until the guard is dropped. Also returns the new grant, if
    /// half of the old one is in use.
    pub(super) fn take(self: &Arc<Self>) -> (OpenStream, Option<u32>) {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let granted = self.granted.load(Ordering::Relaxed);
        let raised = (open > granted / 2 && granted < MAX_STREAMS).then(|| {
            let more = (granted * 4).min(MAX_STREAMS);
            self.granted.store(more, Ordering::Relaxed);
            more
        });
        (OpenStream(Arc::clone(self)), raised)
    }
}

/// Counts an accepted stream until it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<Grant>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
