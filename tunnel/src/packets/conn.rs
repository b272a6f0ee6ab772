//! One connection of a packet stream: its queues in both directions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tunnel_proto::packet::Packet;

use crate::duplex::{Batch, Broken, End};

/// Waiting chunks below this are copied together: each keeps alive the frame of
/// 16 KiB or more in which it came.
const SMALL: usize = 4096;

/// There is no half-close in the packets. After a client's end its connection
/// stays open until nothing came from the target for this long.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(5);

/// How much may wait, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Received for one connection and not yet taken.
    pub connection: usize,
    /// The same for all connections of the stream together.
    pub stream: usize,
}

/// Bytes that were received and not taken yet, of all connections of a stream.
#[derive(Debug)]
pub(super) struct Backlog {
    limits: Limits,
    bytes: AtomicUsize,
}

impl Backlog {
    pub(super) const fn new(limits: Limits) -> Self {
        Self { limits, bytes: AtomicUsize::new(0) }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn taken(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What the stream and the connection's own task know of it.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: i64,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) received: Received,
    pub(super) receiver: Option<Waker>,
    pub(super) sending: Batch,
    pub(super) sender: Option<Waker>,
    pub(super) last_sent: Option<Instant>,
    /// What to say once everything is sent.
    pub(super) close: Option<Packet>,
    /// When to ask the peer to close, if it has not by then.
    pub(super) close_at: Option<Instant>,
    pub(super) half_closed: bool,
    /// In the stream's list of connections that have something to send.
    pub(super) listed: bool,
    /// Nothing more is sent: this side or the peer has closed.
    pub(super) stopped: bool,
    /// Nobody takes what is received any more.
    pub(super) discard: bool,
}

/// Bytes on their way to the connection's task, and how they end.
#[derive(Debug, Default)]
pub(super) struct Received {
    chunks: Batch,
    /// Small chunks, copied together; behind `chunks`.
    tail: BytesMut,
    pub(super) end: Option<Result<End, Broken>>,
}

impl Received {
    pub(super) fn len(&self) -> usize {
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

    pub(super) fn move_to(&mut self, batch: &mut Batch) -> usize {
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

    pub(super) fn clear(&mut self) -> usize {
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
    pub(super) fn receive(&self, backlog: &Backlog, data: Bytes) -> Result<f64, Broken> {
        let mut state = lock(&self.state);
        if state.discard || state.received.end.is_some() {
            return Ok(0.0);
        }
        let limits = backlog.limits;
        let own = state.received.len() + data.len();
        let all = backlog.bytes() + data.len();
        // When all together hold too much, those pay that hold more than others could.
        let fair = limits.stream / 64;
        if own > limits.connection || (all > limits.stream && own > fair) {
            let why = Broken::Overflow { waiting: own };
            let dropped = state.received.clear();
            backlog.taken(dropped);
            state.received.end = Some(Err(why.clone()));
            state.wake();
            return Err(why);
        }
        backlog.bytes.fetch_add(data.len(), Ordering::Relaxed);
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
    pub(super) fn say_close(&mut self, packet: Packet) -> bool {
        if std::mem::replace(&mut self.stopped, true) {
            return false;
        }
        self.close = Some(packet);
        !std::mem::replace(&mut self.listed, true)
    }
}

/// Nothing panics while it holds one of these locks, so poison means nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
