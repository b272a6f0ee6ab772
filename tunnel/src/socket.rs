//! Sockets as ends of a relayed connection: TCP, Unix, TLS over TCP.
//!
//! An idle socket owns no buffer: memory is allocated when the kernel has bytes, and freed
//! when it has none.

mod raw;
mod silence;
mod unread;

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufRead as _, AsyncWrite as _, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use crate::duplex::{Abort, BATCH_BYTES, Batch, Broken, Duplex, End, Flow};
use silence::Silence;

/// First read after idleness, in bytes. Smaller costs system calls; larger costs memory for
/// each small message.
const SMALLEST_READ: u32 = 2 * 1024;

/// Largest read, in bytes. Larger gains nothing on loopback; smaller costs system calls.
const LARGEST_READ: u32 = 64 * 1024;

/// The rest of a block is used for the next read if it has at least this many bytes.
const WORTH_KEEPING: usize = 1024;

/// First byte of a TLS record with application data (RFC 8446 section 5.1).
const RECORD: u8 = 23;

/// Bytes of the largest TLS record (RFC 8446 section 5.2).
const LARGEST_RECORD: usize = 16 * 1024 + 256;

/// Slices in one vectored write.
const SLICES: usize = 32;

/// A connected socket.
#[derive(Debug)]
pub struct Socket {
    io: Io,
    /// Boxed, since most connections have none of it for most of their life.
    rare: Option<Box<Rare>>,
    block: BytesMut,
    read_size: u32,
    /// A write has failed with a reset. The kernel reports it once; later reads look like an
    /// end in order.
    reset: bool,
}

// Every idle connection holds one.
const _: () = assert!(size_of::<Socket>() <= 96);

#[derive(Debug, Default)]
struct Rare {
    /// Bytes read before the relay began, which come first.
    unread: Bytes,
    /// For connections with a limit.
    silence: Option<Silence>,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::new(Io::Tcp(stream))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::new(Io::Unix(stream))
    }
}

impl From<TlsStream<TcpStream>> for Socket {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::new(Io::Tls(Box::new(stream)))
    }
}

impl Socket {
    fn new(io: Io) -> Self {
        Self { io, rare: None, block: BytesMut::new(), read_size: SMALLEST_READ, reset: false }
    }

    /// Puts bytes back, to be read next.
    pub fn unread(&mut self, bytes: Bytes) {
        let unread = &mut self.rare.get_or_insert_default().unread;
        *unread = if unread.is_empty() { bytes } else { [&bytes[..], &unread[..]].concat().into() };
    }

    /// The bytes to be read next, if there are any.
    fn take_unread(&mut self) -> Option<Bytes> {
        let rare = self.rare.as_mut()?;
        let unread = std::mem::take(&mut rare.unread);
        if rare.silence.is_none() {
            self.rare = None;
        }
        (!unread.is_empty()).then_some(unread)
    }

    /// Gives up a TCP peer that acknowledges nothing for `limit` while data is under way to it, as
    /// [`io::ErrorKind::TimedOut`]. A peer that answers the probes of its closed window stays. `None`
    /// leaves it to the kernel, which takes about fifteen minutes.
    #[must_use]
    pub fn ends_unacknowledged(mut self, limit: Option<Duration>) -> Self {
        if let Some(limit) = limit {
            self.rare.get_or_insert_default().silence = Some(Silence::new(limit));
        }
        self
    }

    /// Ready when the peer has acknowledged nothing for too long. What is under way is given up.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let Some(silence) = self.rare.as_mut().and_then(|rare| rare.silence.as_mut()) else {
            return Poll::Pending;
        };
        let tcp = match &self.io {
            Io::Tcp(tcp) => tcp,
            Io::Tls(tls) => tls.get_ref().0,
            Io::Unix(_) => return Poll::Pending,
        };
        ready!(silence.poll(cx, tcp));
        // The kernel gives up as well. A socket without the option is closed all the same.
        let _ = tcp.set_zero_linger();
        Poll::Ready(Broken::Io(io::ErrorKind::TimedOut))
    }

    /// Whether the kernel knows the peer to be gone in both directions: a Unix peer that
    /// closed, a TCP peer that reset.
    fn is_hung_up(&mut self) -> bool {
        // Reads the state of the last event. Makes no system call.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let ready = match &self.io {
            Io::Tcp(tcp) => pin!(tcp.ready(Interest::WRITABLE)).poll(&mut cx),
            Io::Unix(unix) => pin!(unix.ready(Interest::WRITABLE)).poll(&mut cx),
            Io::Tls(tls) => pin!(tls.get_ref().0.ready(Interest::WRITABLE)).poll(&mut cx),
        };
        matches!(ready, Poll::Ready(Ok(ready)) if ready.is_write_closed())
    }

    /// A reset found by a write means that no more is taken. Bytes that the peer sent before
    /// can still be read.
    fn write_error(&mut self, error: io::Error) -> Broken {
        let broken = Broken::from(error);
        if broken != Broken::Reset {
            return broken;
        }
        self.reset = true;
        Broken::Stopped
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.io {
            Io::Tcp(tcp) => tcp.poll_read_ready(cx),
            Io::Unix(unix) => unix.poll_read_ready(cx),
            Io::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads once, into a block allocated only when there are bytes.
    fn poll_read_block(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(ready) = self.poll_read_ready(cx) {
            ready?;
        } else {
            self.block = BytesMut::new();
            return Poll::Pending;
        }
        if self.block.capacity() < WORTH_KEEPING {
            self.block = BytesMut::with_capacity(self.read_size as usize);
        }
        let room = self.block.capacity();
        let read = match &mut self.io {
            Io::Tcp(tcp) => poll_read_buf(Pin::new(tcp), cx, &mut self.block),
            Io::Unix(unix) => poll_read_buf(Pin::new(unix), cx, &mut self.block),
            Io::Tls(tls) => poll_read_buf(Pin::new(tls), cx, &mut self.block),
        };
        match &read {
            Poll::Ready(Ok(n)) if *n == room => self.read_size = (self.read_size * 4).min(LARGEST_READ),
            Poll::Ready(Ok(n)) if *n < room / 8 => {
                self.read_size = (self.read_size / 2).max(SMALLEST_READ);
            }
            Poll::Ready(_) => {}
            Poll::Pending => self.block = BytesMut::new(),
        }
        read
    }

    /// Copies plain text out of rustls's own buffer, so that an idle connection needs none.
    fn poll_read_tls(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<io::Result<usize>> {
        let Io::Tls(tls) = &mut self.io else { return Poll::Pending };
        let mut read = 0;
        while read < BATCH_BYTES {
            let plain = match Pin::new(&mut *tls).poll_fill_buf(cx) {
                Poll::Ready(Ok([])) if read == 0 => return Poll::Ready(Ok(0)),
                Poll::Ready(Err(error)) if read == 0 => return Poll::Ready(Err(error)),
                Poll::Pending if read == 0 => return Poll::Pending,
                // An end or error is reported again at the next call.
                Poll::Ready(Ok([]) | Err(_)) | Poll::Pending => break,
                Poll::Ready(Ok(plain)) => plain,
            };
            let n = plain.len();
            batch.push(Bytes::copy_from_slice(plain));
            Pin::new(&mut *tls).consume(n);
            read += n;
        }
        Poll::Ready(Ok(read))
    }

    fn poll_write_once(&mut self, cx: &mut Context<'_>, batch: &Batch) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(batch.iter()) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        match &mut self.io {
            Io::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, &slices[..count]),
            Io::Unix(unix) => Pin::new(unix).poll_write_vectored(cx, &slices[..count]),
            Io::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, &slices[..count]),
        }
    }
}

impl Duplex for Socket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        if let Some(unread) = self.take_unread() {
            batch.push(unread);
            return Poll::Ready(Ok(Flow::More));
        }
        let is_tls = matches!(self.io, Io::Tls(_));
        let read = if is_tls { self.poll_read_tls(cx, batch) } else { self.poll_read_block(cx) };
        let Poll::Ready(read) = read else { return self.poll_silence(cx).map(Err) };
        let read = read?;
        if !is_tls {
            batch.push(self.block.split().freeze());
        }
        if read > 0 {
            return Poll::Ready(Ok(Flow::More));
        }
        self.block = BytesMut::new();
        // The end of TLS is a message of the peer, which came before the reset.
        if self.reset && !matches!(self.io, Io::Tls(_)) {
            return Poll::Ready(Err(Broken::Reset));
        }
        Poll::Ready(Ok(Flow::End(if self.is_hung_up() { End::Closed } else { End::Fin })))
    }

    fn has_read(&self) -> Option<bool> {
        match &self.io {
            Io::Unix(unix) => unread::are_none(unix),
            // An acknowledgement tells that the kernel has the bytes, and not the program.
            Io::Tcp(_) | Io::Tls(_) => None,
        }
    }

    fn consumed(&mut self, _: usize) {}

    fn held(&mut self, received: usize) -> usize {
        match &self.io {
            Io::Tcp(_) | Io::Unix(_) => received,
            // The record being received, and the one received before.
            Io::Tls(_) => received + 2 * LARGEST_RECORD,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        while !batch.is_empty() {
            let n = ready!(self.poll_write_once(cx, batch)).map_err(|error| self.write_error(error))?;
            if n == 0 {
                return Poll::Ready(Err(Broken::Stopped));
            }
            batch.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.io {
            Io::Tcp(_) | Io::Unix(_) => Poll::Ready(Ok(())),
            Io::Tls(tls) => Pin::new(tls).poll_flush(cx).map_err(|error| self.write_error(error)),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>, _: End) -> Poll<Result<(), Broken>> {
        Pin::new(&mut *self).poll_shutdown(cx).map(|shut| match shut {
            // The peer is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            Err(error) => Err(self.write_error(error)),
            Ok(()) => Ok(()),
        })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_hung_up() { Poll::Ready(()) } else { self.poll_silence(cx).map(drop) }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.poll_silence(cx)
    }

    fn stop_receiving(&mut self) -> bool {
        false
    }

    fn abort(&mut self, how: Abort) {
        match (&self.io, how) {
            // A reset instead of FIN.
            (Io::Tcp(tcp), _) => drop(tcp.set_zero_linger()),
            // FIN without close_notify. Go takes it for an ordinary end unless it comes within
            // a record, so the first byte of a record goes before it.
            (Io::Tls(tls), Abort::AfterData) => drop(tls.get_ref().0.try_write(&[RECORD])),
            (Io::Tls(tls), Abort::Now) => drop(tls.get_ref().0.set_zero_linger()),
            // Unix sockets know no reset, only the close.
            (Io::Unix(_), _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::task::yield_now;

    #[tokio::test]
    async fn a_reset_that_a_write_shows_is_not_read_as_an_end_in_order() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::from(listener.accept().await.unwrap().0);
        peer.write_all(b"said before").await.unwrap();
        peer.set_zero_linger().unwrap();
        drop(peer);

        let mut batch = Batch::default();
        let broken = loop {
            batch.push(Bytes::from_static(&[0; 1024]));
            if let Err(why) = poll_fn(|cx| socket.poll_send(cx, &mut batch)).await {
                break why;
            }
            yield_now().await;
        };
        assert_eq!(broken, Broken::Stopped);
        let mut read = Batch::default();
        while poll_fn(|cx| socket.poll_recv(cx, &mut read)).await == Ok(Flow::More) {}
        assert_eq!(read.take(100).unwrap(), "said before");
        assert_eq!(poll_fn(|cx| socket.poll_recv(cx, &mut read)).await, Err(Broken::Reset));
    }
}
