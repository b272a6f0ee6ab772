//! The layer under HTTP/2 that makes grpc-go's requests acceptable.
//!
//! It is an `AsyncRead` that passes a client's bytes through
//! [`tunnel_proto::authority::Rewriter`]. Inside data frames nothing has to be
//! looked at, and bytes go straight to the reader's buffer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tunnel_proto::authority::{Limits, Rewriter};

/// Most bytes looked at in one go: frame heads and HEADERS are small, and a
/// large data frame is passed through behind its head.
const LOOK: usize = 4 * 1024;

/// A client's byte stream with acceptable `:authority` fields.
#[derive(Debug)]
pub(super) struct Acceptable<IO> {
    io: IO,
    rewriter: Rewriter,
    /// Rewritten bytes that the reader has not taken yet.
    ready: BytesMut,
}

impl<IO> Acceptable<IO> {
    pub(super) fn new(io: IO, max_frame_size: usize) -> Self {
        let rewriter = Rewriter::new(Limits { max_frame_size, ..Limits::default() });
        Self { io, rewriter, ready: BytesMut::new() }
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

impl<IO: AsyncWrite + Unpin> AsyncWrite for Acceptable<IO> {
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

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
