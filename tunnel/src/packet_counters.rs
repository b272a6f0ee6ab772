//! Konnectivity's packets, counted under its names.
//!
//! A [`PacketCounters`] belongs to one segment of the way between client and
//! agent. It finds its counters once, so a packet costs one atomic addition.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec};
use tunnel_proto::packet_kind::PacketKind;

/// Which way a packet goes, and between whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Segment {
    /// From agent to server.
    FromAgent,
    /// From client to server.
    FromClient,
    /// From server to agent.
    ToAgent,
    /// From server to client.
    ToClient,
}

impl Segment {
    /// The name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::FromAgent => "from_agent",
            Self::FromClient => "from_client",
            Self::ToAgent => "to_agent",
            Self::ToClient => "to_client",
        }
    }
}

/// How a stream of packets failed: gRPC's codes, as far as a stream can end with
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamError {
    /// The peer gave the stream up.
    Canceled,
    /// The peer broke the protocol, of gRPC or of HTTP/2.
    Internal,
    /// The peer may not do this.
    PermissionDenied,
    /// A message is too large, or there are too many.
    ResourceExhausted,
    /// The credentials are not accepted.
    Unauthenticated,
    /// The connection under the stream is gone.
    Unavailable,
    /// The method does not exist at the peer.
    Unimplemented,
    /// Anything else, by the peer's own account.
    Unknown,
}

impl StreamError {
    /// The name in metrics, which is how Go spells the code.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Canceled => "Canceled",
            Self::Internal => "Internal",
            Self::PermissionDenied => "PermissionDenied",
            Self::ResourceExhausted => "ResourceExhausted",
            Self::Unauthenticated => "Unauthenticated",
            Self::Unavailable => "Unavailable",
            Self::Unimplemented => "Unimplemented",
            Self::Unknown => "Unknown",
        }
    }

    /// What an error means on a call that the peer made. To a gRPC server, a
    /// client that is gone has cancelled its calls.
    pub fn of_caller(error: &h2::Error) -> Self {
        if error.is_io() || error.is_go_away() { Self::Canceled } else { Self::from(error) }
    }

    /// What a status in gRPC's trailers means; `None` for 0, which is no error.
    pub const fn of_status(status: u16) -> Option<Self> {
        Some(match status {
            0 => return None,
            1 => Self::Canceled,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        })
    }
}

impl From<&h2::Error> for StreamError {
    /// As gRPC maps the codes of HTTP/2 (PROTOCOL-HTTP2.md of gRPC, "Errors").
    fn from(error: &h2::Error) -> Self {
        if error.is_io() || error.is_go_away() {
            return Self::Unavailable;
        }
        match error.reason() {
            Some(h2::Reason::CANCEL) => Self::Canceled,
            Some(h2::Reason::REFUSED_STREAM) => Self::Unavailable,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Self::ResourceExhausted,
            Some(h2::Reason::INADEQUATE_SECURITY) => Self::PermissionDenied,
            Some(_) | None => Self::Internal,
        }
    }
}

/// The counters of one segment. Clones count into the same.
#[derive(Debug, Clone)]
pub struct PacketCounters(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    segment: Segment,
    packets: [IntCounter; PacketKind::ALL.len()],
    errors: IntCounterVec,
}

impl PacketCounters {
    /// The counters of a segment. `packets` has the labels `segment` and
    /// `packet_type`, `errors` has `segment`, `code` and `packet_type`, both in
    /// this order.
    pub fn new(segment: Segment, packets: &IntCounterVec, errors: &IntCounterVec) -> Self {
        let of = |kind: PacketKind| packets.with_label_values(&[segment.label(), kind.label()]);
        Self(Arc::new(Counters { segment, packets: PacketKind::ALL.map(of), errors: errors.clone() }))
    }

    /// Counts a packet, once it is received whole or about to be sent.
    pub fn count(&self, kind: PacketKind) {
        self.0.packets[kind as usize].inc();
    }

    /// Counts the failure of a stream: while this kind of packet was sent, or
    /// while none was at hand, as when receiving.
    pub fn failed(&self, error: StreamError, kind: Option<PacketKind>) {
        let kind = kind.unwrap_or(PacketKind::Unknown);
        self.0.errors.with_label_values(&[self.0.segment.label(), error.label(), kind.label()]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::Opts;

    #[test]
    fn every_kind_is_counted_under_its_own_name() {
        let packets = IntCounterVec::new(Opts::new("p", "p"), &["segment", "packet_type"]).unwrap();
        let errors = IntCounterVec::new(Opts::new("e", "e"), &["segment", "code", "packet_type"]).unwrap();
        let counters = PacketCounters::new(Segment::ToAgent, &packets, &errors);
        for (times, kind) in (1..).zip(PacketKind::ALL) {
            for _ in 0..times {
                counters.clone().count(kind);
            }
            assert_eq!(packets.with_label_values(&["to_agent", kind.label()]).get(), times);
        }
        counters.failed(StreamError::Canceled, None);
        counters.failed(StreamError::Unavailable, Some(PacketKind::Data));
        assert_eq!(errors.with_label_values(&["to_agent", "Canceled", "Unknown"]).get(), 1);
        assert_eq!(errors.with_label_values(&["to_agent", "Unavailable", "DATA"]).get(), 1);
    }

    #[test]
    fn statuses_have_the_names_of_go() {
        for (status, name) in
            [(1, "Canceled"), (2, "Unknown"), (8, "ResourceExhausted"), (16, "Unauthenticated")]
        {
            assert_eq!(StreamError::of_status(status).unwrap().label(), name);
        }
        assert_eq!(StreamError::of_status(0), None);
    }
}
