//! Kinds of packets, for metrics and logs.

use crate::r#gen::konnectivity::PacketType;
use crate::packet::Packet;

/// The type of a packet, by its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketKind {
    /// `DIAL_REQ`.
    DialRequest,
    /// `DIAL_RSP`.
    DialResponse,
    /// `CLOSE_REQ`.
    CloseRequest,
    /// `CLOSE_RSP`.
    CloseResponse,
    /// `DATA`.
    Data,
    /// `DIAL_CLS`.
    CloseDial,
    /// `DRAIN`.
    Drain,
    /// Any unknown type. One kind for all, because the sender chooses the number
    /// and each kind is a metric.
    Unknown,
}

impl PacketKind {
    /// All kinds, in the order of their numbers on the wire.
    pub const ALL: [Self; 8] = [
        Self::DialRequest,
        Self::DialResponse,
        Self::CloseRequest,
        Self::CloseResponse,
        Self::Data,
        Self::CloseDial,
        Self::Drain,
        Self::Unknown,
    ];

    /// The name on the wire, as in konnectivity.proto.
    pub fn label(self) -> &'static str {
        PacketType::try_from(self as i32).map_or("Unknown", |kind| kind.as_str_name())
    }
}

impl Packet {
    /// Its kind.
    pub const fn kind(&self) -> PacketKind {
        match self {
            Self::DialRequest { .. } => PacketKind::DialRequest,
            Self::DialResponse { .. } => PacketKind::DialResponse,
            Self::CloseRequest { .. } => PacketKind::CloseRequest,
            Self::CloseResponse { .. } => PacketKind::CloseResponse,
            Self::Data { .. } => PacketKind::Data,
            Self::CloseDial { .. } => PacketKind::CloseDial,
            Self::Drain => PacketKind::Drain,
            Self::Unknown(_) => PacketKind::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_wire() {
        let names =
            ["DIAL_REQ", "DIAL_RSP", "CLOSE_REQ", "CLOSE_RSP", "DATA", "DIAL_CLS", "DRAIN", "Unknown"];
        assert_eq!(PacketKind::ALL.map(PacketKind::label), names);
        assert!(PacketType::try_from(7).is_err(), "a type without a kind");
        assert_eq!(Packet::Unknown(7).kind().label(), "Unknown");
    }
}
