//! Messages between agent and server, and Konnectivity's packets. What was read is written as a
//! message that reads the same.

use bytes::{Bytes, BytesMut};
use tunnel_proto::message::{self, Dial, DialReply};
use tunnel_proto::packet::{self, Packet};

/// Length of the head of our own messages, and of gRPC's, in bytes.
const SHORT_HEAD: usize = 2;
const GRPC_HEAD: usize = 5;

/// The message without its head, whose last two bytes are its length's lowest.
fn content(framed: &Bytes, head: usize) -> Bytes {
    let length = framed.len() - head;
    let said = usize::from(u16::from_be_bytes([framed[head - 2], framed[head - 1]]));
    assert_eq!(length & 0xffff, said, "the frame's length");
    framed.slice(head..)
}

/// Messages of a control stream.
pub(crate) fn control(input: &[u8]) {
    let Ok(Some(read)) = message::decode_control(Bytes::copy_from_slice(input)) else { return };
    let Ok(written) = message::encode_control(read.clone()) else {
        assert!(input.len() > message::MAX_CONTROL / 2, "a short message grew over the limit");
        return;
    };
    let again = message::decode_control(content(&written, SHORT_HEAD));
    assert_eq!(again, Ok(Some(read)));
}

/// The first message of a stream, and its answer.
pub(crate) fn dial(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(read) = Dial::decode(bytes.clone()) {
        let written = read.encode();
        assert!(written.len() <= message::MAX_DIAL, "a dial of {} bytes", written.len());
        assert_eq!(Dial::decode(content(&written, SHORT_HEAD)), Ok(read));
    }
    match DialReply::decode(bytes) {
        // The address is as long as the message that it came in.
        Ok(DialReply::Connected { address, .. }) if address.len() > message::MAX_DIAL / 2 => {}
        Ok(read) => {
            let written = read.encode();
            assert!(written.len() <= message::MAX_DIAL, "an answer of {} bytes", written.len());
            assert_eq!(DialReply::decode(content(&written, SHORT_HEAD)), Ok(read));
        }
        Err(_) => {}
    }
}

/// Konnectivity's packets.
pub(crate) fn packet(input: &[u8]) {
    let Ok(read) = Packet::decode(Bytes::copy_from_slice(input)) else { return };
    let written = read.encode();
    assert_eq!(Packet::decode(content(&written, GRPC_HEAD)).as_ref(), Ok(&read));
    if let Packet::Data { connect_id, data } = &read {
        let mut parts = BytesMut::new();
        packet::put_data_head(&mut parts, *connect_id, data.len());
        parts.extend_from_slice(data);
        assert_eq!(parts.freeze(), written, "the head without the data");
    }
}
