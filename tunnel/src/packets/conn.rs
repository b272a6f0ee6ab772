//! One connection of a packet stream: its queues in both directions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tunnel_proto::packet::Packet;

use crate::duplex::{Batch, Broken, End};

/// Waiting chunks of fewer bytes are copied together, since each keeps alive the frame of
/// 16 KiB or more in which it came. Lower pins more memory; higher copies more.
const SMALL: usize = 4096;

/// A half-closed connection is closed when its target has sent nothing for this long, since
/// the packets know no half-close. Shorter cuts slow answers; longer keeps connections that
/// are over.
pub(super) const HALF_CLOSED: Duration = Duration::from_secs(5);

/// How many received bytes may wait to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of one connection.
    pub connection: usize,
    /// Of all connections of the stream together.
    pub stream: usize,
}

/// The bytes of all connections of a stream that wait to be taken, and their limits.
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

/// The state of a connection, shared by its task and the stream's driver.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: i64,
    pub(super) state: Mutex<State>,
}

// Every idle connection on a konnectivity link holds one.
const _: () = assert!(size_of::<Conn>() <= 288);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) received: Received,
    pub(super) receiver: Option<Waker>,
    pub(super) sending: Batch,
    pub(super) sender: Option<Waker>,
    pub(super) last_sent: Option<Instant>,
    /// The packet that follows the last byte.
    pub(super) close: Option<Packet>,
    /// When to ask the peer to close, unless it closes before.
    pub(super) close_at: Option<Instant>,
    pub(super) half_closed: bool,
    /// The stream lists the connection as ready to send.
    pub(super) listed: bool,
    /// Nothing more is sent: this side or the peer has closed.
    pub(super) stopped: bool,
    /// Received bytes are discarded.
    pub(super) discard: bool,
}

/// Bytes on their way to the connection's task, and their end.
#[derive(Debug, Default)]
pub(super) struct Received {
    chunks: Batch,
    /// Small chunks, copied together. Follows `chunks`.
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

/// The position of a value between `low` (0) and `high` (1).
#[expect(clippy::cast_precision_loss, reason = "a rough part of a few megabytes")]
fn above(value: usize, low: usize, high: usize) -> f64 {
    value.saturating_sub(low) as f64 / (high - low).max(1) as f64
}

/// The next thing to send for a connection.
pub(super) enum Turn {
    Data { data: Batch, more: bool },
    Close(Packet),
    Nothing,
}

impl Conn {
    pub(super) fn new(id: i64) -> Arc<Self> {
        Arc::new(Self { id, state: Mutex::default() })
    }

    /// Queues bytes of the peer. Returns how full the queue is, from 0 to 1. An error means
    /// that the queue overflowed, which ends the connection.
    pub(super) fn receive(&self, backlog: &Backlog, data: Bytes) -> Result<f64, Broken> {
        let mut state = lock(&self.state);
        if state.discard || state.received.end.is_some() {
            return Ok(0.0);
        }
        let limits = backlog.limits;
        let own = state.received.len() + data.len();
        let all = backlog.bytes() + data.len();
        // When the stream's limit is reached, connections above a fair share are closed.
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

    /// The peer has ended the connection: nothing is received or sent after `end`.
    pub(super) fn ended(&self, end: Result<End, Broken>) {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.close_at = None;
        state.sending.clear();
        state.close = None;
        state.received.end.get_or_insert(end);
        state.wake();
    }

    /// The peer asks for a close, which follows the bytes that wait to be sent. Returns
    /// whether the connection has to be listed as ready to send.
    #[must_use]
    pub(super) fn close_requested(&self) -> bool {
        let mut state = lock(&self.state);
        state.received.end.get_or_insert(Ok(End::Closed));
        state.wake();
        state.say_close(Packet::CloseResponse { error: String::new(), connect_id: self.id })
    }

    /// Takes the next thing to send, at most `max` bytes of data.
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

    /// Checks a delayed close. Returns whether to list the connection as ready to send, and
    /// when to check again.
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

    /// Puts the last packet behind all data, once. Returns whether the connection has to be
    /// listed as ready to send.
    pub(super) fn say_close(&mut self, packet: Packet) -> bool {
        if std::mem::replace(&mut self.stopped, true) {
            return false;
        }
        self.close = Some(packet);
        !std::mem::replace(&mut self.listed, true)
    }
}

/// Ignores poison: nothing panics while it holds one of these locks.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
