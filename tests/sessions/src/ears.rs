//! Events of the other end, for which a session waits.
//!
//! Events are what a correct end does at the same point of each session: on HTTP/2 its settings, a block of
//! headers, a frame of data that is not empty, a reset; on HTTP/1 a head, and the first bytes behind it; on QUIC the
//! first byte of a stream, and its end. Windows, pings and acknowledgements are no events.

use bytes::{Buf as _, Bytes, BytesMut};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};

use crate::lane::{Lane, Speech};

/// HTTP/2's preface, without the settings (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame's head, and the kinds of frames that matter here.
pub(crate) const HEAD: usize = 9;
pub(crate) const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// The events so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Events.
    pub(crate) events: u32,
    /// The other end's number for a dial or a connection.
    pub(crate) number: Option<i64>,
    /// The other end has ended its direction, or the connection.
    pub(crate) ended: bool,
}

/// Counts events in the bytes of a connection.
#[derive(Debug)]
pub(crate) struct Ears {
    speech: Speech,
    /// Bytes of a preface that are still to come.
    preface: usize,
    buffer: BytesMut,
    packets: Option<Deframer>,
    settings: bool,
    pub(crate) heard: Heard,
}

impl Ears {
    /// Of the peer that plays on this lane.
    pub(crate) fn on(lane: Lane) -> Self {
        let speech = lane.speech();
        Self {
            speech,
            preface: if lane.hears_a_preface() { PREFACE.len() } else { 0 },
            buffer: BytesMut::new(),
            packets: (speech == Speech::Grpc).then(|| Deframer::grpc(MAX_MESSAGE)),
            settings: false,
            heard: Heard::default(),
        }
    }

    /// Takes bytes of the other end.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        match self.speech {
            Speech::Http1 => self.hear_text(),
            Speech::Http2 | Speech::Grpc => {
                let skip = self.preface.min(self.buffer.len());
                self.buffer.advance(skip);
                self.preface -= skip;
                while let Some(frame) = next_frame(&mut self.buffer) {
                    self.frame(frame);
                }
            }
            Speech::Quic => {}
        }
    }

    fn hear_text(&mut self) {
        const END: &[u8] = b"\r\n\r\n";
        if self.heard.events == 0
            && let Some(at) = self.buffer.windows(END.len()).position(|bytes| bytes == END)
        {
            self.buffer.advance(at + END.len());
            self.heard.events = 1;
        }
        if self.heard.events > 0 {
            if !self.buffer.is_empty() {
                self.heard.events = 2;
            }
            self.buffer.clear();
        }
    }

    fn frame(&mut self, frame: Bytes) {
        let (kind, flags, payload) = (frame[3], frame[4], frame.slice(HEAD..));
        if kind == SETTINGS && flags & ACK == 0 && !self.settings {
            self.settings = true;
            self.heard.events += 1;
        }
        if kind == HEADERS || kind == RST_STREAM || kind == DATA && !payload.is_empty() {
            self.heard.events += 1;
        }
        if kind == DATA
            && let Some(packets) = &mut self.packets
        {
            packets.push(payload);
            while let Ok(Some(message)) = packets.next() {
                if let Ok(Packet::DialRequest { random: number, .. })
                | Ok(Packet::DialResponse { connect_id: number @ 1.., .. }) = Packet::decode(message)
                {
                    self.heard.number = Some(number);
                }
            }
        }
    }
}

/// Takes a frame of HTTP/2, with its head, off bytes.
pub(crate) fn next_frame(buffer: &mut BytesMut) -> Option<Bytes> {
    let head = buffer.get(..HEAD)?;
    let length = HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    (buffer.len() >= length).then(|| buffer.split_to(length).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn events_are_counted_byte_by_byte() {
        let dial = Packet::DialResponse { error: String::new(), connect_id: 77, random: 5 }.encode();
        let (first, second) = dial.split_at(3);
        let wire = [
            PREFACE,
            &frame(SETTINGS, 0, b""),
            &frame(SETTINGS, ACK, b""),
            &frame(HEADERS, 4, b"x"),
            &frame(DATA, 0, b""),
            &frame(DATA, 0, first),
            &frame(6, 0, &[0; 8]),
            &frame(DATA, 0, second),
            &frame(SETTINGS, 0, b""),
        ];
        let mut ears = Ears::on(Lane::ServerKonnectivity);
        wire.concat().iter().for_each(|byte| ears.hear(&[*byte]));
        assert_eq!(ears.heard, Heard { events: 4, number: Some(77), ended: false });
    }

    #[test]
    fn a_head_and_bytes_behind_it_are_two_events() {
        let mut ears = Ears::on(Lane::ClientConnect);
        ears.hear(b"HTTP/1.1 200 OK\r\n\r");
        assert_eq!(ears.heard.events, 0);
        ears.hear(b"\n");
        assert_eq!(ears.heard.events, 1);
        ears.hear(b"ping");
        assert_eq!(ears.heard.events, 2);
    }
}
