//! The client of one call as an end of a relay: bytes to and from packets.
//!
//! gRPC clients have no half-close: a target's end becomes the last packet of the connection, and a
//! client's close ends both directions.

use std::fmt::Display;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::RecvStream;
use tunnel::duplex::{Abort, Batch, Broken, Duplex, End, Flow};
use tunnel::packet_counters::{PacketCounters, StreamError};
use tunnel::packets::{DATA_HEADS, DATA_LEN, Unfinished, data_packet};
use tunnel::relay::Budget;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet, PacketError};
use tunnel_proto::packet_kind::PacketKind;

use super::Code;
use super::call::second_dial;
use super::sender::Sender;

/// Most answers to packets of other connections, per call. Answers wait in memory for a client that
/// does not read; no known client needs one.
const MAX_ANSWERS: u32 = 64;

/// Packets of a call, received under flow control.
#[derive(Debug)]
pub(super) struct Packets {
    body: RecvStream,
    deframer: Deframer,
    /// Bytes received for which the client has no new window yet.
    owed: usize,
    /// Bytes of payload that the relay has not consumed yet.
    unconsumed: usize,
    counters: PacketCounters,
    answers: u32,
    unfinished: Unfinished,
}

impl Packets {
    pub(super) fn new(body: RecvStream, counters: PacketCounters, budget: Arc<Budget>) -> Self {
        let (deframer, unfinished) = (Deframer::grpc(MAX_MESSAGE), Unfinished::new(budget));
        Self { body, deframer, owed: 0, unconsumed: 0, counters, answers: 0, unfinished }
    }

    /// The next packet; `None` when the client ends its direction of the call.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packet>, Broken>> {
        loop {
            let message = self.deframer.next().map_err(|error| self.unreadable(&error))?;
            if let Some(message) = message {
                self.unfinished.finished();
                let packet = Packet::decode(message).map_err(|error: PacketError| self.unreadable(&error))?;
                self.counters.count(packet.kind());
                if let Packet::Data { data, .. } = &packet {
                    self.unconsumed += data.len();
                }
                return Poll::Ready(Ok(Some(packet)));
            }
            self.give_back();
            let Poll::Ready(data) = self.body.poll_data(cx) else {
                let why = ready!(self.unfinished.poll(cx, self.deframer.waiting()));
                return Poll::Ready(Err(self.counted(why)));
            };
            match data {
                Some(Ok(data)) => {
                    self.owed += data.len();
                    self.deframer.push(data);
                }
                Some(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
                None if self.deframer.is_mid_message() => {
                    return Poll::Ready(Err(self.unreadable(&"the call ended within a message")));
                }
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    pub(super) fn consumed(&mut self, n: usize) {
        self.unconsumed = self.unconsumed.saturating_sub(n);
        self.give_back();
    }

    /// Answers a packet of another connection. Answers do not wait for the client's window, so
    /// their number is bounded.
    pub(super) fn answer(&mut self, send: &mut Sender, packet: &Packet) -> Result<(), Broken> {
        self.answers += 1;
        if self.answers > MAX_ANSWERS {
            return Err(Broken::Protocol("too many packets of other connections".to_owned()));
        }
        send.packet(packet).map_err(|_| Broken::Reset)
    }

    /// Gives the client window for all bytes but unconsumed payload: also for packet heads, and
    /// for the begin of a message that is larger than the window.
    fn give_back(&mut self) {
        let n = self.owed.saturating_sub(self.unconsumed);
        if n > 0 {
            self.owed -= n;
            // Fails only when the call is over.
            let _ = self.body.flow_control().release_capacity(n);
        }
    }

    fn unreadable(&self, why: &dyn Display) -> Broken {
        self.counted(Broken::Protocol(why.to_string()))
    }

    fn counted(&self, why: Broken) -> Broken {
        self.counters.failed(StreamError::Internal, None);
        why
    }

    fn broken(&self, error: &h2::Error) -> Broken {
        self.counters.failed(StreamError::of_caller(error), None);
        Broken::from(error)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// One side has closed the connection.
    Closed,
}

/// A client with its connection. A drop resets the connection.
#[derive(Debug)]
pub(super) struct Client {
    packets: Packets,
    send: Sender,
    connect_id: i64,
    state: State,
    /// The failure of the receiving direction, reported after the bytes before it.
    failed: Option<Broken>,
}

impl Client {
    pub(super) const fn new(packets: Packets, send: Sender, connect_id: i64) -> Self {
        Self { packets, send, connect_id, state: State::Open, failed: None }
    }

    /// Sends the last packet of the connection, once.
    fn close(&mut self, error: &str) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        let packet = Packet::CloseResponse { error: error.to_owned(), connect_id: self.connect_id };
        // Queued behind all data, whatever the window. Fails only when the client has ended
        // the call.
        if self.send.packet(&packet).is_ok() {
            self.send.end(Code::Ok, "");
        }
    }

    /// Takes a packet of an established connection.
    fn take(&mut self, packet: Packet, batch: &mut Batch) -> Result<(), Broken> {
        match packet {
            Packet::Data { connect_id, data } if connect_id == self.connect_id => {
                batch.push(data);
                Ok(())
            }
            Packet::CloseRequest { connect_id } if connect_id == self.connect_id => {
                // At once: the Go client's Close() waits for it.
                self.close("");
                Ok(())
            }
            // Packets of other connections are refused, and this one goes on.
            Packet::Data { connect_id, data } => {
                self.packets.consumed(data.len());
                let error = "unrecognized connectID".to_owned();
                self.packets.answer(&mut self.send, &Packet::CloseResponse { error, connect_id })
            }
            Packet::CloseRequest { connect_id } => {
                let error = "Unknown connectID".to_owned();
                self.packets.answer(&mut self.send, &Packet::CloseResponse { error, connect_id })
            }
            Packet::DialRequest { random, .. } => self.packets.answer(&mut self.send, &second_dial(random)),
            // The dial is answered already; unknown types are skipped.
            Packet::CloseDial { .. } | Packet::Unknown(_) => Ok(()),
            Packet::DialResponse { .. } | Packet::CloseResponse { .. } | Packet::Drain => {
                Err(Broken::Protocol("a packet that only agents send".to_owned()))
            }
        }
    }
}

impl Duplex for Client {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<Flow, Broken>> {
        while !batch.is_full() && self.state == State::Open && self.failed.is_none() {
            match self.packets.poll_next(cx) {
                Poll::Ready(Ok(Some(packet))) => self.failed = self.take(packet, batch).err(),
                Poll::Ready(Err(error)) => self.failed = Some(error),
                // The next call finds the end or the wait again.
                Poll::Ready(Ok(None)) | Poll::Pending if !batch.is_empty() => break,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(Flow::End(End::Fin))),
                Poll::Pending => return Poll::Pending,
            }
        }
        if !batch.is_empty() {
            return Poll::Ready(Ok(Flow::More));
        }
        match self.failed.clone() {
            Some(error) => {
                match &error {
                    // The client has left.
                    Broken::Reset | Broken::Lost(_) => self.state = State::Closed,
                    Broken::Io(_) | Broken::Overflow { .. } | Broken::Protocol(_) | Broken::Stopped => {
                        self.close(&error.to_string());
                    }
                }
                Poll::Ready(Err(error))
            }
            None => Poll::Ready(Ok(Flow::End(End::Closed))),
        }
    }

    fn consumed(&mut self, n: usize) {
        self.packets.consumed(n);
    }

    fn held(&mut self, received: usize) -> usize {
        self.packets.body.flow_control().used_capacity().max(received)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<(), Broken>> {
        while !batch.is_empty() {
            if self.state == State::Closed {
                return Poll::Ready(Err(Broken::Stopped));
            }
            let wanted = batch.len().min(DATA_LEN) + DATA_HEADS;
            let room = ready!(self.send.poll_room(cx, wanted))?;
            if room > 0 {
                // Heads overdraw a smaller window: HTTP/2 sends the packet in two frames.
                let packet = data_packet(self.connect_id, batch, room);
                self.send.encoded(PacketKind::Data, packet)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>, _: End) -> Poll<Result<(), Broken>> {
        self.close("");
        Poll::Ready(Ok(()))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx)
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.send.poll_reset(cx).map(|_| Broken::Reset)
    }

    fn stop_receiving(&mut self) -> bool {
        true
    }

    fn abort(&mut self, how: Abort) {
        match how {
            Abort::AfterData => self.close("connection reset by peer"),
            Abort::Now if self.state == State::Closed => {}
            Abort::Now => {
                if self.send.has_room(DATA_HEADS) {
                    self.close("the tunnel server is stopping");
                } else {
                    // The client does not read, so a last packet would not arrive.
                    self.state = State::Closed;
                    self.send.reset();
                }
            }
        }
    }
}

impl Drop for Client {
    // Old clients wait for ever when a call ends without a close.
    fn drop(&mut self) {
        self.abort(Abort::Now);
    }
}
