//! The part of HTTP/2's framing that the rewriter needs (RFC 9113 sections 4 and 6).

use bytes::{BufMut, BytesMut};

use super::error::Fault;

/// Length of a frame's head in octets (RFC 9113 section 4.1).
pub(super) const HEAD_LEN: usize = 9;

/// Frame types (RFC 9113 section 6).
pub(super) const HEADERS: u8 = 0x1;
pub(super) const PUSH_PROMISE: u8 = 0x5;
pub(super) const CONTINUATION: u8 = 0x9;

/// Flags of HEADERS (RFC 9113 section 6.2); CONTINUATION has `END_HEADERS` only.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Length of the priority in HEADERS in octets (RFC 9113 section 6.2).
const PRIORITY_LEN: usize = 5;

/// A frame's head (RFC 9113 section 4.1).
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD_LEN]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let length = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        // The highest bit is reserved.
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Self { length, kind, flags, stream }
    }

    pub(super) fn put(self, out: &mut BytesMut) {
        out.put_uint(self.length as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Removes padding and priority from the payload of a HEADERS frame (RFC 9113
/// section 6.2). The length of the padding and the priority are in front, the
/// padding behind.
pub(super) fn strip(frame: Head, payload: &mut Vec<u8>) -> Result<(), Fault> {
    // An empty payload has no length of padding; `start <= end` refuses it.
    let padding = payload.first().filter(|_| frame.has(PADDED)).map_or(0, |length| usize::from(*length));
    let priority = if frame.has(PRIORITY) { PRIORITY_LEN } else { 0 };
    let start = usize::from(frame.has(PADDED)) + priority;
    let end = payload.len().checked_sub(padding).filter(|end| start <= *end);
    let Some(end) = end else { return Err(Fault::HeadersTooShort { stream: frame.stream }) };
    payload.truncate(end);
    payload.drain(..start);
    Ok(())
}
