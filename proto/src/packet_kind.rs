//! What kind of packet a packet is, for metrics and logs.

use crate::packet::Packet;

/// The type of a packet, without what is in it.
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
    /// Any type that does not exist today. One kind for all of them: a stranger
    /// chooses the number.
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
    pub const fn label(self) -> &'static str {
        match self {
            Self::DialRequest => "DIAL_REQ",
            Self::DialResponse => "DIAL_RSP",
            Self::CloseRequest => "CLOSE_REQ",
            Self::CloseResponse => "CLOSE_RSP",
            Self::Data => "DATA",
            Self::CloseDial => "DIAL_CLS",
            Self::Drain => "DRAIN",
            Self::Unknown => "Unknown",
        }
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
    use crate::r#gen::konnectivity::PacketType;

    #[test]
    fn the_names_are_those_of_the_wire() {
        for (number, kind) in (0..7).zip(PacketKind::ALL) {
            assert_eq!(PacketType::try_from(number).unwrap().as_str_name(), kind.label());
        }
        assert!(PacketType::try_from(7).is_err(), "a type without a kind");
        assert_eq!(Packet::Unknown(7).kind().label(), "Unknown");
    }
}
