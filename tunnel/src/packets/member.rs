//! One connection of a packet stream, as an end of a relay.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tunnel_proto::packet::Packet;

use super::conn::{Conn, HALF_CLOSED, lock};
use super::mux::{Mux, Role};
use crate::duplex::{Abort, Batch, Broken, Duplex, End, Flow};

/// Bytes of one connection that wait to be sent: two packets, so that the stream has one
/// while the relay fetches the next. More delays the closes behind them.
const OUT_BYTES: usize = 64 * 1024;

/// Time between the last byte and the close. Konnectivity's agents discard bytes that they
/// have not written when they are told to close. Shorter loses more of them; longer keeps
/// connections that are over.
const AFTER_DATA: Duration = Duration::from_millis(250);

/// A connection of a packet stream. Dropping it closes the connection.
#[derive(Debug)]
pub struct Member {
    mux: Mux,
    conn: Arc<Conn>,
}

// Every idle connection on a konnectivity link holds one.
const _: () = assert!(size_of::<Member>() <= 16);

impl Member {
    pub(super) fn new(mux: Mux, conn: Arc<Conn>) -> Self {
        Self { mux, conn }
    }

    /// The connection's number on its stream.
    pub fn id(&self) -> i64 {
        self.conn.id
    }

    fn discard(&self) {
        let mut state = lock(&self.conn.state);
        state.discard = true;
        let dropped = state.received.clear();
        self.mux.state.backlog.taken(dropped);
    }

    fn close(&self, how: Closing) {
        let mut state = lock(&self.conn.state);
        if state.stopped {
            return;
        }
        let connect_id = self.conn.id;
        if self.mux.role() == Role::Answerer {
            let error = how.error().to_owned();
            // To the peer, the close ends both directions.
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
    /// Nothing more is sent.
    Fin,
    /// Nothing more is sent or read.
    Done,
    /// The connection broke.
    Reset,
}

impl Closing {
    /// The text of the close. Konnectivity's agents send none when a target resets; no peer
    /// parses it.
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
            self.mux.state.backlog.taken(moved);
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

impl Drop for Member {
    fn drop(&mut self) {
        self.discard();
        let half_closed = lock(&self.conn.state).half_closed;
        self.close(if half_closed { Closing::Done } else { Closing::Reset });
    }
}
