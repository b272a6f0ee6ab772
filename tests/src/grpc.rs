//! One gRPC call that carries packets, from either end.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};

use crate::wait::within;

/// The sending direction.
#[derive(Debug)]
pub struct Say(SendStream<Bytes>);

/// The receiving direction.
#[derive(Debug)]
pub struct Hear {
    body: RecvStream,
    deframer: Deframer,
}

impl Say {
    const fn new(send: SendStream<Bytes>) -> Self {
        Self(send)
    }

    /// Sends bytes as they are.
    pub async fn bytes(&mut self, bytes: impl Into<Bytes>) {
        let mut left = bytes.into();
        while !left.is_empty() {
            self.0.reserve_capacity(left.len());
            let room = match self.0.capacity() {
                0 => match within("a window", poll_fn(|cx| self.0.poll_capacity(cx))).await {
                    Some(Ok(room)) => room,
                    // The other end has ended the call; its status can be read.
                    Some(Err(_)) | None => return,
                },
                room => room,
            };
            let _ = self.0.send_data(left.split_to(room.min(left.len())), false);
        }
    }

    /// Sends a packet.
    pub async fn packet(&mut self, packet: &Packet) {
        self.bytes(packet.encode()).await;
    }

    /// Sends a gRPC message.
    pub async fn message(&mut self, message: &[u8]) {
        let mut framed = BytesMut::from(&[0][..]);
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        self.bytes(framed).await;
    }

    /// Ends this side, as clients do.
    pub fn finish(&mut self) {
        let _ = self.0.send_data(Bytes::new(), true);
    }

    /// Ends the call, as servers do.
    pub fn status(&mut self, code: u16, text: &str) {
        let _ = self.0.send_trailers(trailers(code, text));
    }

    /// Cancels the call, as clients do.
    pub fn cancel(&mut self) {
        self.0.send_reset(h2::Reason::CANCEL);
    }
}

impl Hear {
    fn new(body: RecvStream) -> Self {
        Self { body, deframer: Deframer::grpc(MAX_MESSAGE) }
    }

    /// The next message, `None` at the end of the call. Waits without a limit.
    ///
    /// # Errors
    /// When the call or its connection is cut.
    pub async fn message_or_cut(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if let Some(message) = self.deframer.next().unwrap() {
                return Ok(Some(message));
            }
            let Some(data) = self.body.data().await.transpose()? else { return Ok(None) };
            // An ended call has no window to give.
            let _ = self.body.flow_control().release_capacity(data.len());
            self.deframer.push(data);
        }
    }

    /// The next message, or `None` at the end of the call.
    pub async fn message(&mut self) -> Option<Bytes> {
        within("a packet", self.message_or_cut()).await.unwrap()
    }

    /// The next packet, or `None` at the end of the call.
    pub async fn packet(&mut self) -> Option<Packet> {
        Some(Packet::decode(self.message().await?).unwrap())
    }

    /// The status. To be called when all messages have been read.
    pub async fn status(&mut self) -> (u16, String) {
        let trailers = within("trailers", self.body.trailers()).await.unwrap().unwrap_or_default();
        status(&trailers)
    }
}

/// Both directions of a call.
#[derive(Debug)]
pub struct Call {
    /// To the other end.
    pub say: Say,
    /// From the other end.
    pub hear: Hear,
}

impl Call {
    /// A call of an HTTP/2 stream.
    pub fn new(send: SendStream<Bytes>, body: RecvStream) -> Self {
        Self { say: Say::new(send), hear: Hear::new(body) }
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        self.say.bytes(bytes).await;
    }

    /// Sends a packet.
    pub async fn packet(&mut self, packet: &Packet) {
        self.say.packet(packet).await;
    }

    /// Sends a gRPC message.
    pub async fn message(&mut self, message: &[u8]) {
        self.say.message(message).await;
    }

    /// Ends our side.
    pub fn finish(&mut self) {
        self.say.finish();
    }

    /// The next packet, or `None` at the end of the call.
    pub async fn next(&mut self) -> Option<Packet> {
        self.hear.packet().await
    }

    /// Fails if another packet comes next.
    pub async fn expect(&mut self, packet: Packet) {
        assert_eq!(self.next().await, Some(packet));
    }

    /// Fails if the next message consists of other bytes.
    pub async fn expect_bytes(&mut self, bytes: &[u8]) {
        let message = self.hear.message().await;
        assert_eq!(message.as_deref(), Some(bytes), "{:?}", message.clone().map(Packet::decode));
    }

    /// Reads to the end of the call: the packets up to it, and the status.
    pub async fn end(mut self) -> (Vec<Packet>, u16, String) {
        let mut packets = Vec::new();
        while let Some(packet) = self.next().await {
            packets.push(packet);
        }
        let (status, message) = self.hear.status().await;
        (packets, status, message)
    }

    /// Dials, as a client of a frontend, and gives the id of the connection.
    pub async fn dial(&mut self, address: &str) -> i64 {
        self.packet(&Packet::DialRequest { protocol: "tcp".into(), address: address.into(), random: 7 })
            .await;
        match self.next().await {
            Some(Packet::DialResponse { error, connect_id, random: 7 }) if error.is_empty() => connect_id,
            other => panic!("{other:?} instead of a connection to {address}"),
        }
    }
}

/// gRPC's status and message.
pub fn status(fields: &HeaderMap) -> (u16, String) {
    let text = |name| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
    (text("grpc-status").unwrap().parse().unwrap(), text("grpc-message").unwrap_or_default())
}

fn trailers(code: u16, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    if !text.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_str(text).unwrap());
    }
    trailers
}
