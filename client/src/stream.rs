//! A dialled connection on its gRPC stream.
//!
//! Reading hands out slices of `h2`'s buffers and releases flow-control window
//! only after they were read. Writing makes one DATA packet per call, at most as
//! large as the window, so nothing queues here. A packet of another connection is
//! an error, because it is the server's mistake.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{Packet, put_data_head};

use crate::driver::Driver;
use crate::error::{CloseError, DialError};

/// Most bytes in one DATA packet: what the kube-apiserver's copies write.
const MAX_DATA: usize = 32 * 1024;

/// Most bytes of a DATA packet in front of its payload: the gRPC prefix 5, the
/// type 2, two tags with their lengths 4 each, the id 11, one spare. With less,
/// a packet could exceed the reserved window.
const MAX_DATA_HEAD: usize = 27;

/// How the receiving side ended.
#[derive(Debug)]
enum End {
    /// By a CLOSE_RSP, with its error text.
    Answered(String),
    /// By an error, which the reader got.
    Failed,
    /// By trailers alone.
    Trailers,
}

#[derive(Debug)]
pub(crate) struct Stream {
    // Dropped in this order: the resets of the halves before the driver's end.
    reader: Reader,
    writer: Writer,
    _driver: Arc<Driver>,
}

impl Stream {
    pub(crate) fn new(reader: Reader, writer: Writer, driver: Arc<Driver>) -> Self {
        Self { reader, writer, _driver: driver }
    }

    /// The next bytes to read; empty at the end. The caller advances past the
    /// bytes it took.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&mut Bytes>> {
        ready!(self.reader.poll_fill(cx))?;
        Poll::Ready(Ok(&mut self.reader.chunk))
    }

    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.poll_write(cx, buf)
    }

    /// Sends CLOSE_REQ behind the written bytes, once.
    pub(crate) fn ask_to_close(&mut self) {
        if self.reader.end.is_none() {
            self.writer.ask_to_close();
        }
    }

    /// Sends CLOSE_REQ and waits for CLOSE_RSP, without a time limit.
    pub(crate) async fn close(mut self) -> Result<(), CloseError> {
        self.ask_to_close();
        while self.reader.end.is_none() {
            self.reader.chunk.clear();
            poll_fn(|cx| self.reader.poll_fill(cx)).await.map_err(CloseError::Io)?;
        }
        self.writer.finish();
        match self.reader.end {
            Some(End::Answered(error)) if error.is_empty() => Ok(()),
            Some(End::Answered(error)) => Err(CloseError::Reported(error)),
            Some(End::Failed | End::Trailers) | None => Err(CloseError::NoAnswer),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Reader {
    body: RecvStream,
    deframer: Deframer,
    connect_id: i64,
    /// Payload to be read.
    chunk: Bytes,
    /// Bytes received whose window is not released yet.
    owed: usize,
    end: Option<End>,
}

impl Reader {
    pub(crate) fn new(body: RecvStream, deframer: Deframer, connect_id: i64) -> Self {
        Self { body, deframer, connect_id, chunk: Bytes::new(), owed: 0, end: None }
    }

    /// How many bytes can be read without waiting, up to one packet.
    pub(crate) fn ready_bytes(&mut self) -> io::Result<usize> {
        match self.poll_fill(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => Ok(0),
            Poll::Ready(filled) => filled.map(|()| self.chunk.len()),
        }
    }

    /// Waits until there is a chunk, or an end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() && self.end.is_none() {
            if let Err(error) = ready!(self.poll_packet(cx)) {
                self.end = Some(End::Failed);
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads one packet, or more bytes of it.
    fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(message) = self.deframer.next().map_err(invalid)? {
            return Poll::Ready(self.take(message));
        }
        // Released before the next packet is whole: it may exceed the window.
        if self.owed > 0 {
            let owed = std::mem::take(&mut self.owed);
            self.body.flow_control().release_capacity(owed).map_err(failed)?;
        }
        match ready!(self.body.poll_data(cx)) {
            Some(bytes) => {
                let bytes = bytes.map_err(failed)?;
                self.owed = bytes.len();
                self.deframer.push(bytes);
            }
            None => {
                let trailers = ready!(self.body.poll_trailers(cx)).map_err(failed)?;
                grpc_status(&trailers.unwrap_or_default())
                    .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error))?;
                self.end = Some(End::Trailers);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take(&mut self, message: Bytes) -> io::Result<()> {
        match Packet::decode(message).map_err(invalid)? {
            Packet::Data { connect_id, .. } | Packet::CloseResponse { connect_id, .. }
                if connect_id != self.connect_id =>
            {
                Err(invalid(format!("packet of connection {connect_id} on {}", self.connect_id)))
            }
            Packet::Data { data, .. } => {
                self.chunk = data;
                Ok(())
            }
            Packet::CloseResponse { error, .. } => {
                self.end = Some(End::Answered(error));
                Ok(())
            }
            // Skipped, as the kube-apiserver's client does.
            Packet::CloseDial { .. }
            | Packet::CloseRequest { .. }
            | Packet::DialRequest { .. }
            | Packet::DialResponse { .. }
            | Packet::Drain
            | Packet::Unknown(_) => Ok(()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Writer {
    body: SendStream<Bytes>,
    connect_id: i64,
    closing: bool,
}

impl Writer {
    pub(crate) fn new(body: SendStream<Bytes>, connect_id: i64) -> Self {
        Self { body, connect_id, closing: false }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let want = buf.len().min(MAX_DATA);
        let capacity = ready!(self.poll_capacity(cx, want))?;
        let length = want.min(capacity);
        let mut packet = BytesMut::with_capacity(MAX_DATA_HEAD + length);
        put_data_head(&mut packet, self.connect_id, length);
        packet.extend_from_slice(&buf[..length]);
        self.body.send_data(packet.freeze(), false).map_err(failed)?;
        Poll::Ready(Ok(length))
    }

    /// Waits until the window has room for a packet of at least one byte. Returns
    /// the room for payload, in bytes.
    fn poll_capacity(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        self.body.reserve_capacity(MAX_DATA_HEAD + want);
        loop {
            // Asked first: `poll_capacity` only reports growth.
            let capacity = self.body.capacity();
            if capacity > MAX_DATA_HEAD {
                return Poll::Ready(Ok(capacity - MAX_DATA_HEAD));
            }
            match ready!(self.body.poll_capacity(cx)) {
                Some(grown) => grown.map_err(failed)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
    }

    fn ask_to_close(&mut self) {
        if !self.closing {
            self.closing = true;
            let close = Packet::CloseRequest { connect_id: self.connect_id };
            // An error means that the stream is over; the reader reports it.
            let _ = self.body.send_data(close.encode(), false);
        }
    }

    /// Ends the sending side with END_STREAM, so that a drop sends no reset.
    fn finish(&mut self) {
        // An error means that the stream is over already.
        let _ = self.body.send_data(Bytes::new(), true);
    }
}

/// The gRPC error in headers or trailers, if there is one.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Result<(), DialError> {
    let text = |name| fields.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    // An unreadable status counts as 2, UNKNOWN.
    match text("grpc-status").map(|code| code.parse().unwrap_or(2)) {
        None | Some(0) => Ok(()),
        Some(code) => Err(DialError::GrpcStatus { code, message: text("grpc-message").unwrap_or_default() }),
    }
}

fn failed(error: h2::Error) -> io::Error {
    if error.is_io() {
        return error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
    }
    let kind =
        if error.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionAborted };
    io::Error::new(kind, error)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
