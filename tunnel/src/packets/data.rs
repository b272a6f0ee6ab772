//! The encoding of data packets.

use bytes::{BufMut as _, Bytes, BytesMut};
use tunnel_proto::packet::put_data_head;

use crate::duplex::Batch;

/// Most bytes of payload in one data packet, as Konnectivity's server reads them. Larger
/// packets cost the Go client less. Smaller ones allow it less time: it gives up a
/// connection on which eleven packets have waited for ten seconds.
pub const DATA_LEN: usize = 32 * 1024;

/// Bytes to reserve for the heads of a data packet; more than they take.
pub const DATA_HEADS: usize = 32;

/// The payload for which a window of `room` bytes has place; at least one byte, so that a
/// window smaller than the heads is overdrawn instead of never used.
pub(super) fn payload(room: usize) -> usize {
    room.saturating_sub(DATA_HEADS).clamp(1, DATA_LEN)
}

/// Encodes one data packet from the front of `batch`, for a window of `room` bytes.
pub fn data_packet(connect_id: i64, batch: &mut Batch, room: usize) -> Bytes {
    let mut left = batch.len().min(payload(room));
    let mut packet = BytesMut::with_capacity(DATA_HEADS + left);
    put_data_head(&mut packet, connect_id, left);
    while left > 0
        && let Some(chunk) = batch.take(left)
    {
        left -= chunk.len();
        packet.put(chunk);
    }
    packet.freeze()
}
