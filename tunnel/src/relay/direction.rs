//! One direction of a relay: from its source, through a batch, to its sink.

use std::task::{Context, Poll};

use super::watch::{Lane, Watch};
use crate::duplex::{Batch, Broken, Duplex, End, Flow};

/// Batches moved in one poll before other tasks get their turn. Fewer cost wake-ups; more
/// delay the other connections of the worker.
const TURNS: usize = 16;

/// One direction and the bytes that it holds.
pub(super) struct Direction<'a> {
    pub(super) batch: Batch,
    pub(super) watch: Watch<'a>,
    pub(super) moved: u64,
    /// The source's end, once it came.
    pub(super) end: Option<End>,
    /// The batch has bytes, and the sink takes none for now.
    pub(super) blocked: bool,
    pub(super) done: bool,
    /// The sink takes nothing any more: bytes are read and discarded. Boxed, because few
    /// connections come to it.
    discarding: Option<Box<Discarding>>,
}

/// The account of a direction whose bytes are discarded.
#[derive(Default)]
struct Discarding {
    /// Bytes discarded.
    bytes: u64,
    /// Bytes that were discarded when the sink's end left, if it has.
    since: Option<u64>,
    /// The sink's error, if it did not leave in order.
    undelivered: Option<Broken>,
}

impl<'a> Direction<'a> {
    pub(super) fn new(lane: &'a Lane) -> Self {
        Self {
            batch: Batch::default(),
            watch: Watch::new(lane),
            moved: 0,
            end: None,
            blocked: false,
            done: false,
            discarding: None,
        }
    }

    fn discard(&mut self) -> &mut Discarding {
        self.discarding.get_or_insert_default()
    }

    /// The sink's end left: bytes discarded from now on count.
    pub(super) fn sink_left(&mut self) {
        let discarding = self.discard();
        discarding.since = Some(discarding.bytes);
    }

    /// Bytes discarded since the sink's end left, if it has.
    pub(super) fn left_since(&self) -> Option<u64> {
        let discarding = self.discarding.as_ref()?;
        discarding.since.map(|since| discarding.bytes - since)
    }

    pub(super) fn undelivered(&self) -> Option<&Broken> {
        self.discarding.as_ref()?.undelivered.as_ref()
    }

    /// Ready when the direction is over or its source failed.
    pub(super) fn poll<S: Duplex, D: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
    ) -> Poll<Result<(), Broken>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..TURNS {
            self.blocked = self.poll_sink(cx, source, sink).is_pending();
            if self.blocked {
                return Poll::Pending;
            }
            if self.end.is_some() {
                self.done = true;
                self.batch.shrink();
                return Poll::Ready(Ok(()));
            }
            match source.poll_recv(cx, &mut self.batch) {
                Poll::Ready(Ok(Flow::More)) => {}
                Poll::Ready(Ok(Flow::End(end))) => self.end = Some(end),
                Poll::Ready(Err(why)) => return Poll::Ready(Err(why)),
                Poll::Pending => {
                    self.batch.shrink();
                    return self.poll_idle(cx, sink);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when the batch is empty and, after the end, the sink finished.
    fn poll_sink<S: Duplex, D: Duplex>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut S,
        sink: &mut D,
    ) -> Poll<()> {
        while self.discarding.is_none() && !self.batch.is_empty() {
            let before = self.batch.len();
            let sent = sink.poll_send(cx, &mut self.batch);
            let n = before - self.batch.len();
            if n > 0 {
                self.moved += n as u64;
                self.watch.took(n);
                source.consumed(n);
            }
            match sent {
                Poll::Ready(Ok(())) => self.watch.ends(),
                Poll::Ready(Err(why)) => self.give_up(why),
                Poll::Pending => {
                    self.watch.waits(n > 0);
                    self.batch.compact();
                    return Poll::Pending;
                }
            }
        }
        if let Some(discarding) = &mut self.discarding {
            self.watch.ends();
            let dropped = self.batch.clear();
            discarding.bytes += dropped as u64;
            source.consumed(dropped);
            return Poll::Ready(());
        }
        if let Some(end) = self.end {
            match sink.poll_finish(cx, end) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(why)) => self.give_up(why),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// The source has nothing for now: flushes the sink.
    fn poll_idle<D: Duplex>(&mut self, cx: &mut Context<'_>, sink: &mut D) -> Poll<Result<(), Broken>> {
        if self.discarding.is_none()
            && self.moved > 0
            && let Poll::Ready(Err(why)) = sink.poll_flush(cx)
        {
            self.give_up(why);
        }
        Poll::Pending
    }

    fn give_up(&mut self, why: Broken) {
        self.discard().undelivered = Some(why);
    }
}
