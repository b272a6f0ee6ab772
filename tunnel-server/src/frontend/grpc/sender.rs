//! The direction of a call to the client. Every packet is counted.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use tunnel::duplex::Broken;
use tunnel::packet_counters::{PacketCounters, StreamError};
use tunnel_proto::packet::Packet;
use tunnel_proto::packet_kind::PacketKind;

use super::{Code, trailers};
use crate::metrics::GaugeGuard;

/// Sends packets, and ends the call. The call is counted while it lives.
#[derive(Debug)]
pub(super) struct Sender {
    stream: SendStream<Bytes>,
    counters: PacketCounters,
    _open: GaugeGuard,
}

impl Sender {
    pub(super) const fn new(stream: SendStream<Bytes>, counters: PacketCounters, open: GaugeGuard) -> Self {
        Self { stream, counters, _open: open }
    }

    /// Queues a packet, whatever the client's window. Fails when the client has ended the call.
    pub(super) fn packet(&mut self, packet: &Packet) -> Result<(), Broken> {
        self.encoded(packet.kind(), packet.encode())
    }

    /// As [`Sender::packet`], for an encoded packet.
    pub(super) fn encoded(&mut self, kind: PacketKind, packet: Bytes) -> Result<(), Broken> {
        self.counters.count(kind);
        self.stream.send_data(packet, false).map_err(|_| {
            self.counters.failed(StreamError::Canceled, Some(kind));
            Broken::Stopped
        })
    }

    /// Waits until the client has window for a packet of `wanted` bytes or fewer, and returns it.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Broken>> {
        self.stream.reserve_capacity(wanted);
        match self.stream.capacity() {
            0 => self.stream.poll_capacity(cx).map(|room| match room {
                Some(Ok(room)) => Ok(room),
                Some(Err(_)) | None => Err(Broken::Stopped),
            }),
            room => Poll::Ready(Ok(room)),
        }
    }

    /// Whether the client has any window now. Reserves `wanted` bytes of it.
    pub(super) fn has_room(&mut self, wanted: usize) -> bool {
        self.stream.reserve_capacity(wanted);
        self.stream.capacity() > 0
    }

    /// Ready when the client has reset the call.
    pub(super) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(drop)
    }

    /// Ends the call in order.
    pub(super) fn end(&mut self, code: Code, text: &'static str) {
        // Fails only when the client ended the call first.
        let _ = self.stream.send_trailers(trailers(code, text));
    }

    /// Ends the call at once; queued packets are lost.
    pub(super) fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}
