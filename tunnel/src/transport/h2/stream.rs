//! One HTTP/2 stream as an end of a relay.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};

use crate::duplex::{Abort, Batch, Broken, End, Flow};

/// Trailer that says how a direction ended, unless it just finished.
const END: &str = "tunnel-end";
/// The connection behind this stream broke.
const END_RESET: HeaderValue = HeaderValue::from_static("reset");
/// The direction is finished, and nothing more is read.
const END_CLOSED: HeaderValue = HeaderValue::from_static("closed");

/// One HTTP/2 stream.
pub struct Stream {
    send: SendStream<Bytes>,
    recv: Receiving,
    finished: bool,
    /// The peer was told that nothing more is read.
    said_closed: bool,
    /// This end opened the stream: the tunnel server, HTTP/2's client.
    opened: bool,
    /// How receiving ended, once it has.
    ended: Option<Result<Flow, Broken>>,
}

// Every idle connection on the link holds one.
const _: () = assert!(size_of::<Stream>() <= 88);

enum Receiving {
    /// For the head of the response.
    Waiting(client::ResponseFuture),
    Body(RecvStream),
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id())
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Stream {
    fn new(opened: bool, send: SendStream<Bytes>, recv: Receiving) -> Self {
        Self { send, recv, finished: false, said_closed: false, opened, ended: None }
    }

    pub(super) fn opened(response: client::ResponseFuture, send: SendStream<Bytes>) -> Self {
        Self::new(true, send, Receiving::Waiting(response))
    }

    pub(super) fn accepted(
        request: Request<RecvStream>,
        mut respond: server::SendResponse<Bytes>,
    ) -> Result<Self, h2::Error> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let send = respond.send_response(response, false)?;
        Ok(Self::new(false, send, Receiving::Body(request.into_body())))
    }

    pub(crate) fn id(&self) -> u64 {
        self.send.stream_id().as_u32().into()
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<&mut RecvStream, Broken>> {
        if let Receiving::Waiting(response) = &mut self.recv {
            let response = ready!(Pin::new(response).poll(cx)).map_err(|error| broken(&error))?;
            self.recv = Receiving::Body(response.into_body());
        }
        match &mut self.recv {
            Receiving::Body(body) => Poll::Ready(Ok(body)),
            Receiving::Waiting(_) => Poll::Pending,
        }
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
    ) -> Poll<Result<Flow, Broken>> {
        if let Some(ended) = &self.ended {
            return Poll::Ready(ended.clone());
        }
        let flow = ready!(self.poll_recv_open(cx, batch));
        if !matches!(flow, Ok(Flow::More)) {
            // h2 yields trailers only once.
            self.ended = Some(flow.clone());
        }
        Poll::Ready(flow)
    }

    fn poll_recv_open(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        let body = ready!(self.poll_body(cx))?;
        while !batch.is_full() {
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => batch.push(data),
                // Ends, errors and waits are reported at the next call.
                Poll::Ready(None | Some(Err(_))) | Poll::Pending if !batch.is_empty() => break,
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Self::poll_end(cx, body),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(&error))),
            }
        }
        Poll::Ready(Ok(Flow::More))
    }

    fn poll_end(cx: &mut Context<'_>, body: &mut RecvStream) -> Poll<Result<Flow, Broken>> {
        Poll::Ready(match ready!(body.poll_trailers(cx)) {
            Ok(Some(trailers)) => match trailers.get(END) {
                Some(how) if *how == END_RESET => Err(Broken::Reset),
                Some(how) if *how == END_CLOSED => Ok(Flow::End(End::Closed)),
                // Words of newer peers.
                Some(_) | None => Ok(Flow::End(End::Fin)),
            },
            Ok(None) => Ok(Flow::End(End::Fin)),
            Err(error) => Err(broken(&error)),
        })
    }

    pub(crate) fn consumed(&mut self, n: usize) {
        if let Receiving::Body(body) = &mut self.recv {
            // Fails only for streams that are over.
            let _ = body.flow_control().release_capacity(n);
        }
    }

    /// As [`Duplex::held`](crate::duplex::Duplex::held): the bytes not released as window.
    pub(crate) fn held(&mut self, received: usize) -> usize {
        match &mut self.recv {
            Receiving::Body(body) => body.flow_control().used_capacity().max(received),
            Receiving::Waiting(_) => received,
        }
    }

    pub(crate) fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        while !batch.is_empty() {
            self.send.reserve_capacity(batch.len());
            let mut room = self.send.capacity();
            if room == 0 {
                room = match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(write_error(&error))),
                    None => return Poll::Ready(Err(Broken::Stopped)),
                };
            }
            // Without room, asking again registers for the next wake-up.
            if room > 0
                && let Some(chunk) = batch.take(room)
            {
                self.send.send_data(chunk, false).map_err(|error| write_error(&error))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn finish(&mut self, end: End) -> Result<(), Broken> {
        if self.finished {
            return Ok(());
        }
        self.finished = true;
        self.said_closed = end == End::Closed;
        match end {
            End::Fin => self.send.send_data(Bytes::new(), true),
            End::Closed => self.send.send_trailers(trailers(END_CLOSED)),
        }
        .map_err(|error| write_error(&error))
    }

    /// After the end of a client that is gone was passed on. Drops what is still queued.
    pub(crate) fn stop_receiving(&mut self) {
        if !self.said_closed {
            self.send.send_reset(Reason::CANCEL);
        }
    }

    /// Reads and discards until the peer's end, which shows that everything arrived. Agents
    /// need not: what an HTTP/2 server has queued goes out after it drops the stream.
    pub(crate) async fn settle(&mut self) {
        if !self.finished || !self.opened {
            return;
        }
        let mut batch = Batch::default();
        while let Ok(Flow::More) = poll_fn(|cx| self.poll_recv(cx, &mut batch)).await {
            let dropped = batch.clear();
            self.consumed(dropped);
        }
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(drop)
    }

    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if self.finished {
            // After our end, a reset of the peer is no failure.
            return Poll::Pending;
        }
        self.send.poll_reset(cx).map(|reset| match reset {
            Ok(_) => Broken::Reset,
            Err(error) => broken(&error),
        })
    }

    pub(crate) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_gone(cx)
    }

    pub(crate) fn abort(&mut self, how: Abort) {
        if how == Abort::AfterData && !self.finished {
            if self.send.send_trailers(trailers(END_RESET)).is_ok() {
                self.finished = true;
            }
        } else if how == Abort::Now {
            self.finished = true;
            self.send.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Otherwise the peer may take the drop for an end.
        if !self.finished {
            self.abort(Abort::Now);
        }
    }
}

fn trailers(end: HeaderValue) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(END), end)])
}

/// An agent refuses streams beyond its limit, which is not a failure of their connections.
fn broken(error: &h2::Error) -> Broken {
    if error.is_reset() && error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        return Broken::Stopped;
    }
    Broken::from(error)
}

fn write_error(error: &h2::Error) -> Broken {
    let broken = broken(error);
    if broken == Broken::Reset { Broken::Stopped } else { broken }
}
