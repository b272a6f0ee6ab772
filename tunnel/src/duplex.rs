//! One end of a relayed connection: a socket, a stream of a tunnel, a gRPC client.
//!
//! Exactly one task polls a [`Duplex`] and drives both directions, so implementations need
//! no lock and one waker per direction.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

/// Bytes on their way from one end to the other, in order. Empty and after `shrink`,
/// it owns no memory.
#[derive(Debug, Default)]
pub struct Batch {
    chunks: VecDeque<Bytes>,
    len: usize,
}

/// A receiver stops filling a batch at this many bytes. Fewer cost system calls; more are
/// held for each slow sink.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;

/// A receiver stops filling a batch at this many chunks, for the same reasons.
const BATCH_CHUNKS: usize = 64;

/// Chunks are copied together if they are smaller than this on average, in bytes. Lower pins
/// more memory; higher copies more.
const SMALL_CHUNK: usize = 8 * 1024;

/// Chunks are copied together if there are more than this.
const FEW_CHUNKS: usize = 4;

impl Batch {
    /// Adds a chunk. Drops an empty one.
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.len += chunk.len();
            self.chunks.push_back(chunk);
        }
    }

    /// Bytes in the batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether a receiver should stop adding to it.
    pub fn is_full(&self) -> bool {
        self.len >= BATCH_BYTES || self.chunks.len() >= BATCH_CHUNKS
    }

    /// The chunks, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.chunks.iter()
    }

    /// All chunks in one slice. After taking bytes from its front, call
    /// `advance_taken`.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [Bytes] {
        self.chunks.make_contiguous()
    }

    /// Takes at most `max` bytes from the oldest chunk.
    pub fn take(&mut self, max: usize) -> Option<Bytes> {
        let front = self.chunks.front_mut()?;
        let taken = if front.len() <= max { self.chunks.pop_front()? } else { front.split_to(max) };
        self.len -= taken.len();
        Some(taken)
    }

    /// Drops the first `n` bytes.
    pub fn advance(&mut self, mut n: usize) {
        while n > 0 {
            let Some(taken) = self.take(n) else { return };
            n -= taken.len();
        }
    }

    /// Accounts for `n` bytes taken out through `as_mut_slice`, and drops the chunks
    /// emptied by that.
    pub(crate) fn advance_taken(&mut self, n: usize) {
        self.len -= n;
        while self.chunks.front().is_some_and(Bytes::is_empty) {
            self.chunks.pop_front();
        }
    }

    /// Copies many small chunks into one, for a batch that has to wait. A chunk of a few
    /// hundred bytes may pin the block of 64 KiB in which it was received.
    pub(crate) fn compact(&mut self) {
        if self.chunks.len() > FEW_CHUNKS && self.len / self.chunks.len() < SMALL_CHUNK {
            let mut whole = BytesMut::with_capacity(self.len);
            self.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
            self.chunks.clear();
            self.chunks.push_back(whole.freeze());
        }
    }

    /// Drops all bytes. Returns their number.
    pub fn clear(&mut self) -> usize {
        self.chunks.clear();
        std::mem::take(&mut self.len)
    }

    /// Frees the memory of an empty batch, for connections that become idle.
    pub(crate) fn shrink(&mut self) {
        if self.chunks.is_empty() {
            self.chunks = VecDeque::new();
        }
    }
}

/// How a direction ended in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The peer sends no more, and goes on reading.
    Fin,
    /// The peer sends no more and reads no more.
    Closed,
}

/// The outcome of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The batch has bytes, and more may come.
    More,
    /// The direction ended; nothing was added to the batch.
    End(End),
}

/// Why one end failed. Not an `io::Error`, since the kind decides how the other end is ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The peer gave the connection up (TCP RST, stream reset).
    #[error("connection reset by peer")]
    Reset,
    /// The peer takes no more bytes.
    #[error("peer stopped reading for good")]
    Stopped,
    /// More bytes came than can be held for a reader that does not take them.
    #[error("closed because {waiting} bytes waited for a peer that does not read")]
    Overflow {
        /// Bytes held.
        waiting: usize,
    },
    /// The tunnel or socket under the connection is gone.
    #[error("tunnel lost: {0}")]
    Lost(String),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// Any other failure of the operating system.
    #[error("{0}")]
    Io(io::ErrorKind),
}

impl Broken {
    /// Whether an operator has to know. Peers reset and leave as they like, and the end of a tunnel is told
    /// once for all its connections.
    pub const fn is_fault(&self) -> bool {
        match self {
            Self::Overflow { .. } | Self::Protocol(_) | Self::Io(_) => true,
            Self::Reset | Self::Stopped | Self::Lost(_) => false,
        }
    }

    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Stopped => "stopped",
            Self::Overflow { .. } => "overflow",
            Self::Lost(_) => "tunnel_lost",
            Self::Protocol(_) => "protocol_error",
            Self::Io(_) => "io_error",
        }
    }
}

impl From<io::Error> for Broken {
    /// For errors of sockets.
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let kind = error.kind();
        // A TLS peer that goes without close_notify may have been cut off.
        if matches!(kind, Kind::ConnectionReset | Kind::ConnectionAborted | Kind::UnexpectedEof) {
            Self::Reset
        } else if matches!(kind, Kind::BrokenPipe | Kind::NotConnected) {
            Self::Stopped
        } else {
            Self::Io(kind)
        }
    }
}

/// How to give an end up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abort {
    /// After delivering the bytes sent before.
    AfterData,
    /// At once.
    Now,
}

/// One end of a relayed connection.
pub trait Duplex {
    /// Waits for bytes and adds them to `batch`, which is not full.
    ///
    /// Returns `Flow::End` and errors only when nothing was added, and again on every later
    /// call. All bytes that the peer sent come before an error.
    ///
    /// # Errors
    /// When the peer failed; see [`Broken`].
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>>;

    /// Whether the peer has read everything that was sent to it; `None` of ends that cannot know.
    fn has_read(&self) -> Option<bool> {
        None
    }

    /// Returns flow-control credit for `n` received bytes that were passed on.
    fn consumed(&mut self, n: usize);

    /// Estimates the bytes of the peer that this process holds, without those in the kernel.
    /// `received` of them are in a batch and not consumed.
    fn held(&mut self, received: usize) -> usize;

    /// Sends bytes from the front of `batch` until it is empty (ready) or the peer takes no
    /// more for now (pending; some may have been sent).
    ///
    /// # Errors
    /// When the peer takes no more bytes for good.
    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>>;

    /// Sends the bytes that the end itself has buffered.
    ///
    /// # Errors
    /// As [`Duplex::poll_send`].
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Tells the peer that no more bytes follow, and with [`End::Closed`] that no more are
    /// read. Nothing is sent after it.
    ///
    /// # Errors
    /// As [`Duplex::poll_send`].
    fn poll_finish(&mut self, cx: &mut Context<'_>, end: End) -> Poll<Result<(), Broken>>;

    /// After the peer's [`End::Fin`]: ready when the peer reads no more either. Ends that cannot
    /// wake for that are polled again from time to time.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when the peer has reset both directions, so that its waiting bytes need not be
    /// delivered. For stalled connections, which have no room to receive. Ends that cannot
    /// know are never ready.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// After this end was finished: tells the peer that no more is read. Returns false if the
    /// end has no way to say so; the caller then reads and discards for a while.
    fn stop_receiving(&mut self) -> bool;

    /// Resets the connection in both directions. Flush before `Abort::AfterData`. Dropping an
    /// unfinished end is `Abort::Now`.
    fn abort(&mut self, how: Abort);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_keeps_order_and_count() {
        let mut batch = Batch::default();
        for chunk in ["hello", "", " ", "world"] {
            batch.push(Bytes::from_static(chunk.as_bytes()));
        }
        assert_eq!(batch.len(), 11);
        assert_eq!(batch.take(2).unwrap(), "he");
        batch.advance(4);
        assert_eq!((batch.len(), batch.take(100).unwrap()), (5, Bytes::from_static(b"world")));
        assert!(batch.is_empty() && batch.take(1).is_none());
    }

    #[test]
    fn small_chunks_that_wait_are_copied_together() {
        let mut batch = Batch::default();
        let block = Bytes::from(vec![7; 64 * 1024]);
        for i in 0..10 {
            batch.push(block.slice(i * 100..i * 100 + 10));
        }
        batch.compact();
        assert_eq!((batch.len(), batch.iter().count()), (100, 1));
        batch.push(block.slice(..64 * 1024 - 1));
        batch.compact();
        assert_eq!(batch.iter().count(), 2, "large chunks are left alone");
        drop(block);
    }

    #[test]
    fn bytes_taken_through_the_slice_are_accounted_for() {
        let mut batch = Batch::default();
        batch.push(Bytes::from_static(b"abc"));
        batch.push(Bytes::from_static(b"def"));
        let slice = batch.as_mut_slice();
        slice[0].clear();
        let _ = slice[1].split_to(1);
        batch.advance_taken(4);
        assert_eq!((batch.len(), batch.take(9).unwrap()), (2, Bytes::from_static(b"ef")));
    }
}
