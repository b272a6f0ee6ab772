//! Konnectivity's packets, one per gRPC message (`konnectivity.proto`).
//!
//! Receivers go by the `type` number; a payload of another kind, or none, is an
//! error. The type of a dial request is 0, the proto3 default, so an empty message
//! is a dial request without payload.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::r#gen::konnectivity as wire;
use wire::PacketType as Kind;
use wire::packet::Payload;

/// Largest gRPC message, in bytes: the default of grpc-go. A kube-apiserver writes
/// 32 KiB at once.
pub const MAX_MESSAGE: usize = 4 << 20;

/// The gRPC path of the frontend's one method.
pub const PROXY_PATH: &str = "/ProxyService/Proxy";

/// One packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// DIAL_REQ: a client asks for a connection.
    DialRequest {
        /// Only "tcp" is served.
        protocol: String,
        /// `host:port`, not parsed.
        address: String,
        /// The client's number for the dial.
        random: i64,
    },
    /// DIAL_RSP: an error text or the connection's id.
    DialResponse {
        /// Empty when connected.
        error: String,
        /// The connection's id in all later packets; 0 when not connected.
        connect_id: i64,
        /// The client's number for the dial.
        random: i64,
    },
    /// CLOSE_REQ: asks for the end of a connection, in both directions.
    CloseRequest {
        /// The connection's id.
        connect_id: i64,
    },
    /// CLOSE_RSP: the last packet of a connection.
    CloseResponse {
        /// Empty after an orderly end.
        error: String,
        /// The connection's id.
        connect_id: i64,
    },
    /// DATA: bytes of a connection.
    Data {
        /// The connection's id.
        connect_id: i64,
        /// The bytes.
        data: Bytes,
    },
    /// DIAL_CLS: cancels a dial.
    CloseDial {
        /// The client's number for the dial.
        random: i64,
    },
    /// DRAIN: an agent takes no new dials.
    Drain,
    /// An unknown type; receivers skip it.
    Unknown(i32),
}

/// Why a message is no packet.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PacketError {
    /// Not protobuf, or not of this type.
    #[error("malformed packet: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The payload is not what the type says.
    #[error("{kind} packet with a payload of another kind")]
    Mismatch {
        /// The type, by its name on the wire.
        kind: &'static str,
    },
}

impl Packet {
    /// Reads one gRPC message, without its prefix. The data of a data packet is a
    /// slice of `message`.
    ///
    /// # Errors
    /// See [`PacketError`].
    pub fn decode(message: Bytes) -> Result<Self, PacketError> {
        let packet = wire::Packet::decode(message)?;
        let Ok(kind) = Kind::try_from(packet.r#type) else {
            return Ok(Self::Unknown(packet.r#type));
        };
        Ok(match (kind, packet.payload) {
            (Kind::DialReq, Some(Payload::DialRequest(p))) => {
                Self::DialRequest { protocol: p.protocol, address: p.address, random: p.random }
            }
            (Kind::DialRsp, Some(Payload::DialResponse(p))) => {
                Self::DialResponse { error: p.error, connect_id: p.connect_id, random: p.random }
            }
            (Kind::CloseReq, Some(Payload::CloseRequest(p))) => {
                Self::CloseRequest { connect_id: p.connect_id }
            }
            (Kind::CloseRsp, Some(Payload::CloseResponse(p))) => {
                Self::CloseResponse { error: p.error, connect_id: p.connect_id }
            }
            (Kind::Data, Some(Payload::Data(p))) => Self::Data { connect_id: p.connect_id, data: p.data },
            (Kind::DialCls, Some(Payload::CloseDial(p))) => Self::CloseDial { random: p.random },
            // The payload of a drain is empty, so senders may leave it out.
            (Kind::Drain, None | Some(Payload::Drain(_))) => Self::Drain,
            (kind, _) => return Err(PacketError::Mismatch { kind: kind.as_str_name() }),
        })
    }

    /// The packet as a gRPC message with its prefix.
    pub fn encode(&self) -> Bytes {
        let (kind, payload) = self.to_wire();
        let message = wire::Packet { r#type: kind, payload };
        let length = message.encoded_len();
        let mut out = BytesMut::with_capacity(5 + length);
        put_prefix(&mut out, length);
        // Fails only on a buffer that cannot grow.
        let _ = message.encode(&mut out);
        out.freeze()
    }

    fn to_wire(&self) -> (i32, Option<Payload>) {
        let (kind, payload) = match self.clone() {
            Self::DialRequest { protocol, address, random } => {
                (Kind::DialReq, Payload::DialRequest(wire::DialRequest { protocol, address, random }))
            }
            Self::DialResponse { error, connect_id, random } => {
                (Kind::DialRsp, Payload::DialResponse(wire::DialResponse { error, connect_id, random }))
            }
            Self::CloseRequest { connect_id } => {
                (Kind::CloseReq, Payload::CloseRequest(wire::CloseRequest { connect_id }))
            }
            Self::CloseResponse { error, connect_id } => {
                (Kind::CloseRsp, Payload::CloseResponse(wire::CloseResponse { error, connect_id }))
            }
            Self::Data { connect_id, data } => {
                (Kind::Data, Payload::Data(wire::Data { connect_id, error: String::new(), data }))
            }
            Self::CloseDial { random } => (Kind::DialCls, Payload::CloseDial(wire::CloseDial { random })),
            Self::Drain => (Kind::Drain, Payload::Drain(wire::Drain {})),
            Self::Unknown(kind) => return (kind, None),
        };
        (kind as i32, Some(payload))
    }
}

/// Appends a data packet without its data: the gRPC prefix and the protobuf heads.
/// With the data behind, it equals [`Packet::encode`], without a copy.
pub fn put_data_head(out: &mut BytesMut, connect_id: i64, data_len: usize) {
    // Tags of konnectivity.proto: field number and wire type.
    const TYPE: u8 = 1 << 3;
    const DATA: u8 = 4 << 3 | 2;
    const DATA_CONNECT_ID: u8 = 1 << 3;
    const DATA_BYTES: u8 = 3 << 3 | 2;

    let id = connect_id.cast_unsigned();
    let id_len = if id == 0 { 0 } else { 1 + varint_len(id) };
    // An empty bytes field is left out in proto3.
    let bytes_len = if data_len == 0 { 0 } else { 1 + varint_len(data_len as u64) + data_len };
    let inner = id_len + bytes_len;
    let message = 2 + 1 + varint_len(inner as u64) + inner;

    put_prefix(out, message);
    out.extend_from_slice(&[TYPE, Kind::Data as u8, DATA]);
    put_varint(out, inner as u64);
    if id != 0 {
        out.put_u8(DATA_CONNECT_ID);
        put_varint(out, id);
    }
    if data_len != 0 {
        out.put_u8(DATA_BYTES);
        put_varint(out, data_len as u64);
    }
}

fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    // Senders keep messages under [`MAX_MESSAGE`].
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deframe::Deframer;
    use proptest::prelude::*;

    fn unframe(encoded: Bytes) -> Bytes {
        let mut deframer = Deframer::grpc(MAX_MESSAGE);
        deframer.push(encoded);
        deframer.next().unwrap().unwrap()
    }

    /// The first message of a kube-apiserver, byte for byte.
    #[test]
    fn a_dial_request_of_the_kube_apiserver() {
        let mut message = vec![0x12, 0x18, 0x0a, 3];
        message.extend_from_slice(b"tcp");
        message.extend_from_slice(&[0x12, 15]);
        message.extend_from_slice(b"10.99.0.1:10250");
        message.extend_from_slice(&[0x18, 0x2a]);
        message[1] = (message.len() - 2) as u8;
        let expected =
            Packet::DialRequest { protocol: "tcp".into(), address: "10.99.0.1:10250".into(), random: 42 };
        assert_eq!(Packet::decode(message.clone().into()).unwrap(), expected);
        assert_eq!(&expected.encode()[5..], &message[..]);
    }

    #[test]
    fn a_payload_that_does_not_fit_the_type_is_an_error() {
        // An empty message claims to be a dial request.
        assert_eq!(Packet::decode(Bytes::new()), Err(PacketError::Mismatch { kind: "DIAL_REQ" }));
        for (kind, name) in
            [(1, "DIAL_RSP"), (2, "CLOSE_REQ"), (3, "CLOSE_RSP"), (4, "DATA"), (5, "DIAL_CLS")]
        {
            let message = wire::Packet {
                r#type: kind,
                payload: Some(Payload::DialRequest(wire::DialRequest::default())),
            };
            assert_eq!(
                Packet::decode(message.encode_to_vec().into()),
                Err(PacketError::Mismatch { kind: name })
            );
        }
        assert_eq!(Packet::decode(Bytes::from_static(&[8, 99])), Ok(Packet::Unknown(99)));
        assert_eq!(Packet::decode(Bytes::from_static(&[8, 6])), Ok(Packet::Drain));
    }

    proptest! {
        #[test]
        fn packets_survive_the_wire(id in any::<i64>(), text in "\\PC{0,30}", data in prop::collection::vec(any::<u8>(), 0..300)) {
            for packet in [
                Packet::DialRequest { protocol: "tcp".into(), address: text.clone(), random: id },
                Packet::DialResponse { error: text.clone(), connect_id: id, random: id },
                Packet::CloseRequest { connect_id: id },
                Packet::CloseResponse { error: text.clone(), connect_id: id },
                Packet::Data { connect_id: id, data: Bytes::from(data.clone()) },
                Packet::CloseDial { random: id },
                Packet::Drain,
            ] {
                prop_assert_eq!(Packet::decode(unframe(packet.encode())).unwrap(), packet);
            }
        }

        #[test]
        fn the_hand_written_data_head_equals_the_generated_one(id in any::<i64>(), length in 0usize..70_000) {
            let data = Bytes::from(vec![7; length]);
            let mut by_hand = BytesMut::new();
            put_data_head(&mut by_hand, id, length);
            by_hand.extend_from_slice(&data);
            prop_assert_eq!(by_hand.freeze(), Packet::Data { connect_id: id, data }.encode());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packet::decode(Bytes::from(bytes));
        }
    }
}
