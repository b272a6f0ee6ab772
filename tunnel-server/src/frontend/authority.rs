//! The layer under HTTP/2 that makes grpc-go's requests acceptable.
//!
//! Reads pass through [`tunnel_proto::authority::Rewriter`]; payload of data frames goes straight
//! to the reader's buffer. A shutdown waits until the client has read to the end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tunnel_proto::authority::Rewriter;

/// Most bytes that are rewritten at once. Frame heads and HEADERS are small, and the payload of
/// data frames is passed through; more only costs stack.
const LOOK: usize = 4 * 1024;

/// Time for a client to close after us. With less, the window updates of a client that still
/// reads meet a closed socket, and the client gives up with bytes unread; more keeps sockets of
/// clients that do not close.
const LINGER: Duration = Duration::from_secs(1);

/// A client's byte stream with acceptable `:authority` fields.
#[derive(Debug)]
pub(super) struct Acceptable<IO> {
    io: IO,
    rewriter: Rewriter,
    /// Rewritten bytes that the reader has not taken yet.
    ready: BytesMut,
    /// The end of the wait for the client's close; set once we have closed.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<IO> Acceptable<IO> {
    pub(super) fn new(io: IO, max_frame_size: usize) -> Self {
        Self { io, rewriter: Rewriter::new(max_frame_size), ready: BytesMut::new(), lingers: None }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Acceptable<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..n]);
                this.ready.advance(n);
                if this.ready.is_empty() {
                    this.ready = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let through = this.rewriter.passthrough();
            if through > 0 {
                return this.poll_through(cx, buf, through);
            }
            let mut look = [0; LOOK];
            let mut looked = ReadBuf::new(&mut look);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut looked))?;
            if looked.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter
                .push(looked.filled(), &mut this.ready)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<IO: AsyncRead + Unpin> Acceptable<IO> {
    fn poll_through(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        through: usize,
    ) -> Poll<io::Result<()>> {
        let room = through.min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let n = part.filled().len();
        buf.advance(n);
        self.rewriter.passed(n);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Acceptable<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let until = this.lingers.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        while until.as_mut().poll(cx).is_pending() {
            let mut rest = [0; 1024];
            let mut read = ReadBuf::new(&mut rest);
            let gone = match ready!(Pin::new(&mut this.io).poll_read(cx, &mut read)) {
                Ok(()) => read.filled().is_empty(),
                Err(_) => true,
            };
            if gone {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::{Instant, timeout};

    #[tokio::test(start_paused = true)]
    async fn it_is_open_until_the_client_has_closed_as_well() {
        let (mut client, server) = duplex(1024);
        let mut server = Acceptable::new(server, 16 * 1024);
        server.write_all(b"last words").await.unwrap();
        let early = timeout(LINGER / 2, server.shutdown()).await;
        assert!(early.is_err(), "the client has not read yet");
        // Bytes that the client sends meanwhile are no error.
        client.write_all(&[0; 512]).await.unwrap();
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last words");
        drop(client);
        timeout(LINGER / 10, server.shutdown()).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_close_is_not_waited_for_long() {
        let (_client, server) = duplex(1024);
        let began = Instant::now();
        Acceptable::new(server, 16 * 1024).shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), LINGER.as_secs());
    }
}
