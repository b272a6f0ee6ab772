//! Metrics of Konnectivity's packets, under Konnectivity's names.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Result};
use tunnel::packet_counters::{CountPackets, PacketCounters, StreamError};
use tunnel::packets::Counters;
use tunnel::relay::Budget;
use tunnel_proto::packet_kind::PacketKind;

use super::Maker;

/// The metrics of packets of all segments.
#[derive(Debug)]
pub struct PacketMetrics {
    packets: IntCounterVec,
    errors: IntCounterVec,
}

impl PacketMetrics {
    /// Makes the metrics.
    ///
    /// # Errors
    /// When metrics of these names exist.
    pub fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            packets: make.counters(
                "stream_packets_total",
                "Count of packets processed, by segment and packet type (example: from_client, DIAL_REQ)",
                &["segment", "packet_type"],
            )?,
            errors: make.counters(
                "stream_errors_total",
                "Count of gRPC stream errors, by segment, grpc Code, packet type. (example: from_agent, \
                 Code.Unavailable, DIAL_RSP)",
                &["segment", "code", "packet_type"],
            )?,
        })
    }

    /// The counters of a peer's packets, by the names of the two segments, which are
    /// from the server's point of view. Creates the series of every kind of packet.
    /// Begun messages count in `begun`.
    pub fn counters(&self, received: &'static str, sent: &'static str, begun: Arc<Budget>) -> Counters {
        Counters { received: self.of(received), sent: self.of(sent), begun }
    }

    fn of(&self, segment: &'static str) -> PacketCounters {
        let of = |kind: PacketKind| self.packets.with_label_values(&[segment, kind.label()]);
        let (packets, errors) = (PacketKind::ALL.map(of), self.errors.clone());
        PacketCounters::new(SegmentCounters { segment, packets, errors })
    }
}

#[derive(Debug)]
struct SegmentCounters {
    segment: &'static str,
    /// By [`PacketKind`], so that a packet costs one atomic addition.
    packets: [IntCounter; PacketKind::ALL.len()],
    errors: IntCounterVec,
}

impl CountPackets for SegmentCounters {
    fn count(&self, kind: PacketKind) {
        self.packets[kind as usize].inc();
    }

    fn failed(&self, error: StreamError, kind: PacketKind) {
        self.errors.with_label_values(&[self.segment, error.label(), kind.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_counted_under_its_own_name() {
        let registry = prometheus::Registry::new();
        let metrics = PacketMetrics::make(&mut Maker::new(&registry, "test")).unwrap();
        let counters = metrics.of("to_agent");
        for (times, kind) in (1..).zip(PacketKind::ALL) {
            for _ in 0..times {
                counters.clone().count(kind);
            }
            assert_eq!(metrics.packets.with_label_values(&["to_agent", kind.label()]).get(), times);
        }
        counters.failed(StreamError::Canceled, None);
        counters.failed(StreamError::Unavailable, Some(PacketKind::Data));
        assert_eq!(metrics.errors.with_label_values(&["to_agent", "Canceled", "Unknown"]).get(), 1);
        assert_eq!(metrics.errors.with_label_values(&["to_agent", "Unavailable", "DATA"]).get(), 1);
    }
}
