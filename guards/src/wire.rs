//! The messages that every connection begins with, and the packets of
//! Konnectivity's clients and links, between values and bytes.

use std::hint::black_box;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tunnel_proto::connect::{self, Head};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::message::{Dial, DialReply, MAX_DIAL};
use tunnel_proto::packet::{MAX_MESSAGE, Packet, put_data_head};

/// The request of every kube-apiserver, to a node's kubelet.
const CONNECT: &[u8] = b"CONNECT 10.99.0.1:10250 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// The longest target that a webhook commonly has.
const CONNECT_NAME: &[u8] =
    b"CONNECT admission-webhook.some-operator-system.svc:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// Bytes in a frame of HTTP/2 as grpc-go sends it.
const FRAME: usize = 16 * 1024;

/// The parts of the operations. Owns no state of theirs.
#[derive(Debug)]
pub struct Wire {
    dial: Dial,
    dial_bytes: Bytes,
    reply: DialReply,
    reply_bytes: Bytes,
    request_bytes: Bytes,
    data_bytes: Bytes,
    data: Packet,
    head: BytesMut,
}

impl Wire {
    /// With data packets of `data` bytes.
    pub fn new(data: usize) -> Self {
        let dial = Dial {
            target: "10.99.0.1:10250".parse().unwrap(),
            timeout: Duration::from_secs(30),
            connection_id: 1 << 20,
            measure: false,
        };
        let reply = DialReply::Connected { address: "10.99.0.1:10250".to_owned(), connect: None };
        let request = Packet::DialRequest {
            protocol: "tcp".to_owned(),
            address: "10.99.0.1:10250".to_owned(),
            random: i64::MAX,
        };
        let data = Packet::Data { connect_id: 1000, data: Bytes::from(vec![7; data]) };
        Self {
            dial_bytes: dial.encode(),
            reply_bytes: reply.encode(),
            request_bytes: request.encode(),
            data_bytes: data.encode(),
            dial,
            reply,
            data,
            head: BytesMut::with_capacity(64),
        }
    }

    /// Reads the head of a request for an address.
    pub fn connect_head(&mut self) {
        parsed(CONNECT);
    }

    /// Reads the head of a request for a name.
    pub fn connect_head_with_name(&mut self) {
        parsed(CONNECT_NAME);
    }

    /// Writes a dial.
    pub fn write_dial(&mut self) {
        black_box(black_box(&self.dial).encode());
    }

    /// Reads a dial.
    pub fn read_dial(&mut self) {
        black_box(Dial::decode(only(Deframer::short(MAX_DIAL), &self.dial_bytes)).unwrap());
    }

    /// Writes the answer to a dial.
    pub fn write_reply(&mut self) {
        black_box(black_box(&self.reply).encode());
    }

    /// Reads the answer to a dial.
    pub fn read_reply(&mut self) {
        black_box(DialReply::decode(only(Deframer::short(MAX_DIAL), &self.reply_bytes)).unwrap());
    }

    /// Reads a client's first packet.
    pub fn read_dial_packet(&mut self) {
        black_box(Packet::decode(only(Deframer::grpc(MAX_MESSAGE), &self.request_bytes)).unwrap());
    }

    /// Writes what stands before the bytes of a data packet.
    pub fn write_data_head(&mut self) {
        self.head.clear();
        put_data_head(&mut self.head, black_box(1000), black_box(32 * 1024));
        black_box(&self.head);
    }

    /// Writes a data packet in one piece, its bytes copied.
    pub fn write_data(&mut self) {
        black_box(black_box(&self.data).encode());
    }

    /// Reads a data packet that came in one piece.
    pub fn read_data(&mut self) {
        black_box(Packet::decode(only(Deframer::grpc(MAX_MESSAGE), &self.data_bytes)).unwrap());
    }

    /// Reads a data packet that came in frames.
    pub fn read_data_in_frames(&mut self) {
        let mut deframer = Deframer::grpc(MAX_MESSAGE);
        let mut rest = self.data_bytes.clone();
        let message = loop {
            deframer.push(rest.split_to(FRAME.min(rest.len())));
            if let Some(message) = deframer.next().unwrap() {
                break message;
            }
        };
        black_box(Packet::decode(message).unwrap());
    }
}

fn parsed(head: &[u8]) {
    let parsed = connect::parse(black_box(head)).unwrap();
    assert!(matches!(&parsed, Head::Complete { length, .. } if *length == head.len()));
    black_box(parsed);
}

fn only(mut deframer: Deframer, bytes: &Bytes) -> Bytes {
    deframer.push(black_box(bytes).clone());
    deframer.next().unwrap().unwrap()
}
