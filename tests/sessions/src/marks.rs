//! Bytes of a recorded session that stand for others, of the same length, which are known only when it is
//! played: the address of a target, and the other end's number for a connection.

use std::net::SocketAddr;

/// Stands for the address of an echo. The ports that a kernel chooses have five digits.
pub(crate) const TARGET: &str = "127.0.0.1:65432";

/// Stands for the number that the other end gave a dial or connection last. On the wire both are protobuf's
/// varints of nine bytes.
pub(crate) const NUMBER: i64 = 0x5e55_1047_5e55_1047;

/// The bytes in place of the marks.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    target: String,
}

impl Marks {
    /// `target` is an echo's address.
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { target: target.to_string() }
    }

    /// Puts the real bytes in place of marks that are whole.
    pub(crate) fn put(&self, bytes: &mut [u8], number: Option<i64>) {
        replace(bytes, TARGET.as_bytes(), self.target.as_bytes());
        if let Some(number) = number {
            replace(bytes, &varint(NUMBER), &varint(number));
        }
    }
}

fn replace(bytes: &mut [u8], mark: &[u8], real: &[u8]) {
    if mark.len() != real.len() || bytes.len() < mark.len() {
        return;
    }
    for at in 0..=bytes.len() - mark.len() {
        if bytes[at..].starts_with(mark) {
            bytes[at..at + real.len()].copy_from_slice(real);
        }
    }
}

/// A varint of nine bytes. Smaller numbers have bytes without any bit set at the end, which readers allow.
fn varint(number: i64) -> [u8; 9] {
    let number = number.cast_unsigned();
    std::array::from_fn(|at| (number >> (7 * at)) as u8 & 0x7f | if at < 8 { 0x80 } else { 0 })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tunnel_proto::deframe::Deframer;
    use tunnel_proto::packet::{MAX_MESSAGE, Packet};

    use super::*;

    #[test]
    fn marks_in_packets_become_what_they_stand_for() {
        let target = "127.0.0.1:40000".parse().unwrap();
        let marked = [
            Packet::DialRequest { protocol: "tcp".to_owned(), address: TARGET.to_owned(), random: NUMBER },
            Packet::Data { connect_id: NUMBER, data: Bytes::from_static(b"x") },
        ];
        for number in [1, 0x7f, i64::MAX] {
            let mut wire: Vec<u8> = marked.iter().flat_map(Packet::encode).collect();
            Marks::new(target).put(&mut wire, Some(number));
            let mut deframer = Deframer::grpc(MAX_MESSAGE);
            deframer.push(wire.into());
            let mut next = || Packet::decode(deframer.next().unwrap().unwrap()).unwrap();
            let address = target.to_string();
            assert_eq!(next(), Packet::DialRequest { protocol: "tcp".to_owned(), address, random: number });
            assert_eq!(next(), Packet::Data { connect_id: number, data: Bytes::from_static(b"x") });
        }
    }
}
