//! A dialled connection, over a socket or a gRPC stream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use crate::error::CloseError;
use crate::socket::Socket;
use crate::stream::Stream;

/// A connection to a target, through a frontend.
///
/// Reading and writing go straight to the socket (CONNECT) or the HTTP/2 stream
/// (gRPC). Neither reads ahead of its user by more than the window, so a reader
/// that stops holds the target back.
///
/// On CONNECT, `shutdown` is a half-close: the target can still answer. gRPC has
/// no half-close: there `shutdown` sends CLOSE_REQ and does not wait for the
/// answer; only bytes that were under way can be read afterwards.
///
/// A drop closes the socket or resets the stream.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    /// Bytes that came with the answer, to be read first.
    early: Bytes,
    had_early: bool,
    close_timeout: Duration,
}

#[derive(Debug)]
enum Io {
    Grpc(Box<Stream>),
    Socket(Socket),
}

impl Connection {
    pub(crate) fn over_socket(socket: Socket, early: Bytes, close_timeout: Duration) -> Self {
        Self { io: Io::Socket(socket), had_early: !early.is_empty(), early, close_timeout }
    }

    pub(crate) fn over_stream(stream: Stream, had_early: bool, close_timeout: Duration) -> Self {
        // The stream holds its own early bytes, in the order of their packets.
        Self { io: Io::Grpc(Box::new(stream)), early: Bytes::new(), had_early, close_timeout }
    }

    /// Whether bytes of the target came together with the answer to the dial.
    pub const fn early(&self) -> bool {
        self.had_early
    }

    /// Whether `shutdown` leaves the receiving half open.
    pub const fn has_half_close(&self) -> bool {
        matches!(self.io, Io::Socket(_))
    }

    /// Closes in an orderly way. On gRPC: sends CLOSE_REQ and waits for CLOSE_RSP,
    /// discarding received bytes. On CONNECT: closes the sending half, then the
    /// socket; there is no answer to wait for.
    ///
    /// # Errors
    /// When the CLOSE_RSP carries an error text or does not come within
    /// [`Options::close_timeout`](crate::Options), and when the connection failed.
    /// Cancel safe: a dropped close closes at once.
    pub async fn close(self) -> Result<(), CloseError> {
        let limit = self.close_timeout;
        let close = async {
            match self.io {
                Io::Grpc(stream) => stream.close().await,
                Io::Socket(mut socket) => socket.shutdown().await.map_err(CloseError::Io),
            }
        };
        timeout(limit, close).await.unwrap_or(Err(CloseError::Timeout(limit)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let length = this.early.len().min(buf.remaining());
            buf.put_slice(&this.early.split_to(length));
            return Poll::Ready(Ok(()));
        }
        match &mut this.io {
            Io::Grpc(stream) => {
                let chunk = ready!(stream.poll_chunk(cx))?;
                let length = chunk.len().min(buf.remaining());
                buf.put_slice(&chunk[..length]);
                chunk.advance(length);
                Poll::Ready(Ok(()))
            }
            Io::Socket(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Grpc(stream) => stream.poll_write(cx, buf),
            Io::Socket(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Grpc(stream) => {
                let first = bufs.iter().find(|buf| !buf.is_empty());
                stream.poll_write(cx, first.map_or(&[], |buf| &**buf))
            }
            Io::Socket(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Grpc(_) => false,
            Io::Socket(socket) => socket.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            // The driver sends without being asked.
            Io::Grpc(_) => Poll::Ready(Ok(())),
            Io::Socket(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Grpc(stream) => {
                stream.ask_to_close();
                Poll::Ready(Ok(()))
            }
            Io::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
