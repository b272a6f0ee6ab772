//! One connection of a packet stream, as an end of a relay.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tunnel_proto::packet::Packet;

use super::{Mux, Role, lock};
use crate::duplex::{Abort, Batch, Broken, Duplex, End, Flow};

/// Bytes of one connection that wait to be sent: two packets, so that the
/// stream always has one while the relay fetches the next.
const OUT_BYTES: usize = 64 * 1024;

/// Waiting chunks below this are copied together: each keeps alive the frame of
/// 16 KiB or more in which it came.
const SMALL: usize = 4096;

/// Konnectivity's agents throw away what they have not written when they are
/// told to close, so that is said only this long after the last byte.
const AFTER_DATA: Duration = Duration::from_millis(250);

/// There is no half-close in the packets. After a client's end its connection
/// stays open until nothing came from the target for this long.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// What the stream and the connection's own task know of it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    received: Received,
    receiver: Option<Waker>,
    sending: Batch,
    sender: Option<Waker>,
    last_sent: Option<Instant>,
    /// What to say once everything is sent.
    close: Option<Packet>,
    /// When to ask the peer to close, if it has not by then.
    close_at: Option<Instant>,
    half_closed: bool,
    /// In the stream's list of connections that have something to send.
    listed: bool,
    /// Nothing more is sent: this side or the peer has closed.
    stopped: bool,
    /// Nobody takes what is received any more.
    discard: bool,
}

/// Bytes on their way to the connection's task, and how they end.
#[derive(Debug, Default)]
struct Received {
    chunks: Batch,
    /// Small chunks, copied together; behind `chunks`.
    tail: BytesMut,
    end: Option<Result<End, Broken>>,
}

impl Received {
    fn len(&self) -> usize {
        self.chunks.len() + self.tail.len()
    }

    fn push(&mut self, data: Bytes) {
        if data.len() < SMALL && self.len() > 0 {
            self.tail.extend_from_slice(&data);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push(self.tail.split().freeze());
        }
        self.chunks.push(data);
    }

    fn move_to(&mut self, batch: &mut Batch) -> usize {
        let before = batch.len();
        while !batch.is_full() {
            let chunk = match self.chunks.take(usize::MAX) {
                Some(chunk) => chunk,
                None if self.tail.is_empty() => break,
                None => std::mem::take(&mut self.tail).freeze(),
            };
            batch.push(chunk);
        }
        self.chunks.shrink();
        batch.len() - before
    }

    fn clear(&mut self) -> usize {
        let dropped = self.len();
        self.chunks.clear();
        self.chunks.shrink();
        self.tail = BytesMut::new();
        dropped
    }
}

/// How far a value has come on its way from `low` to `high`.
#[expect(clippy::cast_precision_loss, reason = "a rough part of a few megabytes")]
fn above(value: usize, low: usize, high: usize) -> f64 {
    value.saturating_sub(low) as f64 / (high - low).max(1) as f64
}

/// What the driver has to send for a connection whose turn it is.
pub(super) enum Turn {
    Data { data: Batch, more: bool },
    Close(Packet),
    Nothing,
}

impl Conn {
    pub(super) fn new(id: i64) -> Arc<Self> {
        Arc::new(Self { id, state: Mutex::default() })
    }

    /// Bytes of the peer. Says how full the queue is, from 0 (no matter) to 1
    /// (at its bound); an error when they cannot be kept: the connection is over
    /// then.
    pub(super) fn receive(&self, mux: &Mux, data: Bytes) -> Result<f64, Broken> {
        let mut state = lock(&self.state);
        if state.discard || state.received.end.is_some() {
            return Ok(0.0);
        }
        let limits = mux.shared.limits;
        let own = state.received.len() + data.len();
        let all = mux.shared.waiting.load(Ordering::Relaxed) + data.len();
        // When all together hold too much, those pay that hold more than others could.
        let fair = limits.stream / 64;
        if own > limits.connection || (all > limits.stream && own > fair) {
            let why = Broken::Overflow { waiting: own };
            let dropped = state.received.clear();
            mux.shared.waiting.fetch_sub(dropped, Ordering::Relaxed);
            state.received.end = Some(Err(why.clone()));
            state.wake();
            return Err(why);
        }
        mux.shared.waiting.fetch_add(data.len(), Ordering::Relaxed);
        state.received.push(data);
        if state.half_closed {
            state.close_at = Some(Instant::now() + HALF_CLOSED);
        }
        if let Some(receiver) = state.receiver.take() {
            receiver.wake();
        }
        let together = if own > fair { above(all, limits.stream / 2, limits.stream) } else { 0.0 };
        Ok(above(own, limits.connection / 4, limits.connection).max(together))
    }

    /// The peer says how the connection ended: nothing comes after it, and
    /// nothing more is to be sent.
    pub(super) fn ended(&self, end: Result<End, Broken>) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.close_at = None;
        state.sending.clear();
        state.close = None;
        state.received.end.get_or_insert(end);
        state.wake();
    }

    /// The peer asks for the end; what waits to be sent goes first. Whether the
    /// connection has to be listed for that.
    #[must_use]
    pub(super) fn close_requested(&self) -> bool {
        let mut state = lock(&self.state);
        state.received.end.get_or_insert(Ok(End::Closed));
        state.wake();
        state.say_close(Packet::CloseResponse { error: String::new(), connect_id: self.id })
    }

    /// What the driver is to send now, at most `max` bytes of data.
    pub(super) fn turn(&self, max: usize) -> Turn {
        let mut state = lock(&self.state);
        if state.sending.is_empty() {
            state.listed = false;
            return state.close.take().map_or(Turn::Nothing, Turn::Close);
        }
        let mut data = Batch::default();
        while data.len() < max
            && let Some(chunk) = state.sending.take(max - data.len())
        {
            data.push(chunk);
        }
        let more = !state.sending.is_empty() || state.close.is_some();
        state.listed = more;
        state.last_sent = Some(Instant::now());
        if state.sending.is_empty() {
            state.sending.shrink();
        }
        if let Some(sender) = state.sender.take() {
            sender.wake();
        }
        Turn::Data { data, more }
    }

    /// The time of a delayed close has come: whether to list the connection, or
    /// when to look again.
    pub(super) fn close_is_due(&self, now: Instant) -> (bool, Option<Instant>) {
        let mut state = lock(&self.state);
        match state.close_at {
            None => (false, None),
            Some(at) if at > now => (false, Some(at)),
            Some(_) => {
                state.close_at = None;
                (state.say_close(Packet::CloseRequest { connect_id: self.id }), None)
            }
        }
    }
}

impl State {
    fn wake(&mut self) {
        for waker in [self.receiver.take(), self.sender.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Puts the last packet behind all data, once. Whether the connection has
    /// to be listed for it.
    fn say_close(&mut self, packet: Packet) -> bool {
        if std::mem::replace(&mut self.stopped, true) {
            return false;
        }
        self.close = Some(packet);
        !std::mem::replace(&mut self.listed, true)
    }
}

/// A connection of a packet stream.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct Member {
    mux: Mux,
    conn: Arc<Conn>,
}

impl Member {
    pub(super) fn new(mux: Mux, conn: Arc<Conn>) -> Self {
        Self { mux, conn }
    }

    /// The connection's number on its stream.
    pub fn id(&self) -> i64 {
        self.conn.id
    }

    fn close(&self, how: Closing) {
        let mut state = lock(&self.conn.state);
        if state.stopped {
            return;
        }
        let connect_id = self.conn.id;
        if self.mux.shared.role == Role::Answerer {
            let error = how.error().to_owned();
            // The peer takes that for the end of both directions.
            state.received.end.get_or_insert(Ok(End::Closed));
            if state.say_close(Packet::CloseResponse { error, connect_id }) {
                drop(state);
                self.mux.ready(Arc::clone(&self.conn));
            }
            return;
        }
        let now = Instant::now();
        let at = match how {
            Closing::Fin => now + HALF_CLOSED,
            Closing::Done | Closing::Reset => {
                let unsent = !state.sending.is_empty();
                let last = if unsent { Some(now) } else { state.last_sent };
                last.map_or(now, |at| (at + AFTER_DATA).max(now))
            }
        };
        state.half_closed = how == Closing::Fin;
        state.close_at = Some(at);
        drop(state);
        self.mux.delay(at, Arc::clone(&self.conn));
    }
}

/// How this side ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// No more is sent.
    Fin,
    /// Nor is anything more wanted.
    Done,
    /// It broke.
    Reset,
}

impl Closing {
    /// Konnectivity says nothing when a target resets; nobody parses it, so the
    /// difference is told.
    const fn error(self) -> &'static str {
        match self {
            Self::Fin | Self::Done => "",
            Self::Reset => "connection reset by peer",
        }
    }
}

impl Duplex for Member {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        let mut state = lock(&self.conn.state);
        let moved = state.received.move_to(batch);
        if moved > 0 {
            self.mux.shared.waiting.fetch_sub(moved, Ordering::Relaxed);
        }
        if !batch.is_empty() {
            return Poll::Ready(Ok(Flow::More));
        }
        match &state.received.end {
            Some(Ok(end)) => Poll::Ready(Ok(Flow::End(*end))),
            Some(Err(why)) => Poll::Ready(Err(why.clone())),
            None => {
                state.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn consumed(&mut self, _: usize) {}

    fn held(&mut self, received: usize) -> usize {
        received + lock(&self.conn.state).received.len()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        let mut state = lock(&self.conn.state);
        if state.stopped || state.close_at.is_some() {
            return Poll::Ready(Err(Broken::Stopped));
        }
        while state.sending.len() < OUT_BYTES {
            let Some(chunk) = batch.take(OUT_BYTES - state.sending.len()) else { break };
            state.sending.push(chunk);
        }
        let sent = if batch.is_empty() {
            Poll::Ready(Ok(()))
        } else {
            state.sender = Some(cx.waker().clone());
            Poll::Pending
        };
        if !state.sending.is_empty() && !std::mem::replace(&mut state.listed, true) {
            drop(state);
            self.mux.ready(Arc::clone(&self.conn));
        }
        sent
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, end: End) -> Poll<Result<(), Broken>> {
        self.close(match end {
            End::Fin => Closing::Fin,
            End::Closed => Closing::Done,
        });
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        // The peer's end of the connection is the end of both directions.
        let state = lock(&self.conn.state);
        if state.received.end.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let mut state = lock(&self.conn.state);
        if let Some(Err(why)) = &state.received.end {
            return Poll::Ready(why.clone());
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    fn stop_receiving(&mut self) -> bool {
        self.discard();
        self.close(Closing::Done);
        true
    }

    fn abort(&mut self, how: Abort) {
        if how == Abort::Now {
            lock(&self.conn.state).sending.clear();
        }
        self.close(Closing::Reset);
    }
}

impl Member {
    fn discard(&self) {
        let mut state = lock(&self.conn.state);
        state.discard = true;
        let dropped = state.received.clear();
        self.mux.shared.waiting.fetch_sub(dropped, Ordering::Relaxed);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.discard();
        let half_closed = lock(&self.conn.state).half_closed;
        self.close(if half_closed { Closing::Done } else { Closing::Reset });
    }
}
