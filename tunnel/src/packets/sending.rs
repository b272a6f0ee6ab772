//! The direction of a packet stream that leads to the peer.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use tokio::time::Instant;
use tunnel_proto::packet_kind::PacketKind;

use super::conn::Turn;
use super::data::{DATA_HEADS, DATA_LEN, data_packet, payload};
use super::mux::{Mux, Role};
use crate::packet_counters::{PacketCounters, StreamError};

/// Packets sent in one poll before other tasks get their turn.
const TURNS: usize = 64;

/// Writes packets as the peer's window allows.
pub(super) struct Sending {
    mux: Mux,
    stream: SendStream<Bytes>,
    counters: PacketCounters,
    /// The peer's window has no room for the next packet.
    blocked: bool,
}

impl Sending {
    pub(super) const fn new(mux: Mux, stream: SendStream<Bytes>, counters: PacketCounters) -> Self {
        Self { mux, stream, counters, blocked: false }
    }

    pub(super) const fn stream(&mut self) -> &mut SendStream<Bytes> {
        &mut self.stream
    }

    /// Sends as much as the peer's window takes. Ready with the reason when the stream is
    /// over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..TURNS {
            if !self.anything_to_send(cx) {
                self.set_blocked(false);
                // So that a reset by the peer is noticed.
                return self.poll_reset(cx);
            }
            let room = match self.poll_room(cx) {
                Poll::Ready(Ok(room)) => room,
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Pending => {
                    self.set_blocked(true);
                    return Poll::Pending;
                }
            };
            self.set_blocked(false);
            if let Err(why) = self.send_one(room) {
                return Poll::Ready(why);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn set_blocked(&mut self, blocked: bool) {
        if self.blocked != blocked {
            self.blocked = blocked;
            self.mux.outgoing().blocked = blocked.then(Instant::now);
        }
    }

    /// Whether a packet waits. Registers for later ones.
    fn anything_to_send(&self, cx: &Context<'_>) -> bool {
        let mut outgoing = self.mux.outgoing();
        outgoing.driver = Some(cx.waker().clone());
        if !outgoing.delayed.is_empty() {
            // It came after the driver looked at the delayed closes.
            outgoing.wake();
        }
        !outgoing.control.is_empty() || !outgoing.ready.is_empty()
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.stream.poll_reset(cx).map(|reset| match reset {
            Ok(reason) => format!("the peer reset the call: {reason}"),
            Err(error) => error.to_string(),
        })
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, String>> {
        self.stream.reserve_capacity(DATA_LEN + DATA_HEADS);
        loop {
            let room = self.stream.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(None) => return Poll::Ready(Err("the peer takes no more packets".to_owned())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Control packets first, then connections in turn.
    fn send_one(&mut self, room: usize) -> Result<(), String> {
        let mut outgoing = self.mux.outgoing();
        if let Some((kind, control)) = outgoing.control.pop_front() {
            drop(outgoing);
            return self.put(kind, control);
        }
        let Some(conn) = outgoing.ready.pop_front() else { return Ok(()) };
        drop(outgoing);
        match conn.turn(payload(room)) {
            Turn::Data { mut data, more } => {
                let packet = data_packet(conn.id, &mut data, room);
                if more {
                    self.mux.outgoing().ready.push_back(conn);
                }
                self.put(PacketKind::Data, packet)
            }
            Turn::Close(packet) => {
                if self.mux.role() == Role::Answerer {
                    self.mux.table().remove(conn.id);
                }
                self.put(packet.kind(), packet.encode())
            }
            Turn::Nothing => Ok(()),
        }
    }

    fn put(&mut self, kind: PacketKind, packet: Bytes) -> Result<(), String> {
        self.counters.count(kind);
        self.stream.send_data(packet, false).map_err(|error| {
            self.counters.failed(StreamError::from(&error), Some(kind));
            error.to_string()
        })
    }
}
