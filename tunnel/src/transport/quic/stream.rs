//! One QUIC stream as an end of a relay.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use quinn::{ReadError, VarInt, WriteError};

use super::config::STREAM_WINDOW;
use super::grant::OpenStream;
use super::tunnel::lost;
use crate::duplex::{Abort, Batch, Broken, End, Flow};

/// STOP_SENDING: "I read no more; all is well."
const CODE_CLOSED: VarInt = VarInt::from_u32(0);

/// RESET_STREAM and STOP_SENDING: "the connection behind this stream broke."
const CODE_RESET: VarInt = VarInt::from_u32(1);

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, quinn::StoppedError>> + Send + Sync>>;

/// One QUIC stream.
pub struct Stream {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    finished: bool,
    /// Half-closed streams only, since it costs an allocation.
    stopped: Option<Stopped>,
    /// Counts a stream that an agent accepted; held for its drop.
    _counted: Option<OpenStream>,
}

// Every idle connection on the link holds one.
const _: () = assert!(size_of::<Stream>() <= 96);

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id())
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Stream {
    pub(super) const fn new(
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        counted: Option<OpenStream>,
    ) -> Self {
        Self { send, recv, finished: false, stopped: None, _counted: counted }
    }

    pub(crate) fn id(&self) -> u64 {
        self.recv.id().index()
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Poll<Result<Flow, Broken>> {
        let mut chunks: [Bytes; 32] = Default::default();
        let read = ready!(pin!(self.recv.read_chunks(&mut chunks)).poll(cx));
        Poll::Ready(match read {
            Ok(Some(n)) => {
                chunks.into_iter().take(n).for_each(|chunk| batch.push(chunk));
                Ok(Flow::More)
            }
            Ok(None) => match self.peer_stopped() {
                Some(CODE_CLOSED) => Ok(Flow::End(End::Closed)),
                Some(_) => Err(Broken::Reset),
                None => Ok(Flow::End(End::Fin)),
            },
            Err(error) => Err(read_error(error)),
        })
    }

    /// The code with which the peer has said that it reads no more.
    fn peer_stopped(&mut self) -> Option<VarInt> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match pin!(self.send.stopped()).poll(&mut cx) {
            Poll::Ready(Ok(code)) => code,
            Poll::Ready(Err(_)) => Some(CODE_RESET),
            Poll::Pending => None,
        }
    }

    /// As [`Duplex::held`](crate::duplex::Duplex::held). quinn does not report the bytes that
    /// it holds; a peer that waits for a reader has filled the window.
    #[expect(clippy::unused_self, reason = "the other links need it")]
    pub(crate) const fn held(&self, received: usize) -> usize {
        received + STREAM_WINDOW as usize
    }

    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        while !batch.is_empty() {
            let written = ready!(pin!(self.send.write_chunks(batch.as_mut_slice())).poll(cx));
            batch.advance_taken(written.map_err(write_error)?.bytes);
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn finish(&mut self, end: End) -> Result<(), Broken> {
        if end == End::Closed {
            // First, so that the peer knows it when FIN arrives.
            self.stop_receiving();
        }
        self.finished = true;
        self.send.finish().map_err(|_| Broken::Stopped)
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(self.send.stopped()));
        stopped.as_mut().poll(cx).map(drop)
    }

    /// Receives the next byte alone; `None` is the end. A reset comes before bytes that were received.
    ///
    /// In place of `received_reset`: if the peer has sent everything before that is asked, quinn keeps its
    /// waker, and with it the task, until the connection ends, and panics in debug builds.
    pub(crate) fn poll_peek(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let read = ready!(pin!(self.recv.read_chunk(1, true)).poll(cx));
        Poll::Ready(read.map(|chunk| chunk.map(|chunk| chunk.bytes)).map_err(read_error))
    }

    pub(crate) async fn settle(&mut self) {
        // Either outcome ends the wait.
        let _ = self.send.stopped().await;
    }

    pub(crate) fn stop_receiving(&mut self) {
        // Fails only when the stream has ended already.
        let _ = self.recv.stop(CODE_CLOSED);
    }

    pub(crate) fn abort(&mut self, how: Abort) {
        // Before FIN, at which the peer looks for STOP_SENDING.
        let _ = self.recv.stop(CODE_RESET);
        if how == Abort::AfterData && !self.finished {
            let _ = self.finish(End::Fin);
        }
        if how == Abort::Now {
            self.finished = true;
            let _ = self.send.reset(CODE_RESET);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // quinn would finish the stream, and a cut connection would look complete.
        if !self.finished {
            self.abort(Abort::Now);
        }
    }
}

fn read_error(error: ReadError) -> Broken {
    match error {
        ReadError::Reset(_) => Broken::Reset,
        ReadError::ConnectionLost(error) => Broken::Lost(lost(&error)),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            Broken::Protocol(error.to_string())
        }
    }
}

fn write_error(error: WriteError) -> Broken {
    match error {
        WriteError::Stopped(_) => Broken::Stopped,
        WriteError::ConnectionLost(error) => Broken::Lost(lost(&error)),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => Broken::Protocol(error.to_string()),
    }
}
