//! Counting of Konnectivity's packets. Metrics and their names are the programs'.

use std::fmt::Debug;
use std::sync::Arc;

use tunnel_proto::packet_kind::PacketKind;

/// Counts the packets between a server and its clients, or its agents.
pub trait CountPackets: Debug + Send + Sync {
    /// A packet was received, or is about to be sent.
    fn count(&self, kind: PacketKind);

    /// A stream failed when a packet of this kind was sent. A failure to receive has
    /// [`PacketKind::Unknown`].
    fn failed(&self, error: StreamError, kind: PacketKind);
}

/// Counts nothing.
impl CountPackets for () {
    fn count(&self, _: PacketKind) {}

    fn failed(&self, _: StreamError, _: PacketKind) {}
}

/// A shared [`CountPackets`]. The inner box makes it one pointer wide, since every connection
/// of a gRPC client holds two.
#[derive(Debug, Clone)]
pub struct PacketCounters(Arc<Box<dyn CountPackets>>);

impl PacketCounters {
    /// Shares `counters`.
    pub fn new(counters: impl CountPackets + 'static) -> Self {
        Self(Arc::new(Box::new(counters)))
    }

    /// As [`CountPackets::count`].
    pub fn count(&self, kind: PacketKind) {
        self.0.count(kind);
    }

    /// As [`CountPackets::failed`]; `None` is a failure to receive.
    pub fn failed(&self, error: StreamError, kind: Option<PacketKind>) {
        self.0.failed(error, kind.unwrap_or(PacketKind::Unknown));
    }
}

impl Default for PacketCounters {
    /// Counts nothing.
    fn default() -> Self {
        Self::new(())
    }
}

/// The gRPC code with which a stream of packets failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamError {
    /// The peer gave the stream up.
    Canceled,
    /// The peer broke the protocol, of gRPC or of HTTP/2.
    Internal,
    /// The peer is not allowed to make this call.
    PermissionDenied,
    /// A message is too large, or there are too many messages.
    ResourceExhausted,
    /// The credentials are not accepted.
    Unauthenticated,
    /// The connection under the stream is gone.
    Unavailable,
    /// The method does not exist at the peer.
    Unimplemented,
    /// Any other code that the peer named.
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

    /// The code of a status in gRPC's trailers; `None` for 0, which is no error.
    pub(crate) const fn of_status(status: u16) -> Option<Self> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
