//! The lengths in front of bytes, which are made right again after half of the mutations: else most of them
//! would be refused by the outermost layer.

use crate::ears::{DATA, HEAD};
use crate::lane::Speech;

/// A length in front of a part of a step's bytes: so many bytes, from here, which count what follows the
/// end of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Length {
    at: usize,
    width: usize,
    end: usize,
}

impl Length {
    fn is_right(self, bytes: &[u8]) -> bool {
        let Some(field) = bytes.get(self.at..self.at + self.width) else { return false };
        let length = field.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        bytes.len().checked_sub(self.end) == Some(length)
    }

    fn write(self, bytes: &mut [u8]) {
        let Some(length) = bytes.len().checked_sub(self.end) else { return };
        let length = (length as u64).to_be_bytes();
        bytes[self.at..self.at + self.width].copy_from_slice(&length[8 - self.width..]);
    }
}

/// The lengths that were right before a mutation.
#[derive(Debug, Default)]
pub(crate) struct Lengths(Vec<Length>);

impl Lengths {
    /// Of the bytes of one step.
    pub(crate) fn of(speech: Speech, bytes: &[u8]) -> Self {
        let frame = Length { at: 0, width: 3, end: HEAD };
        let message = |at| Length { at, width: 2, end: at + 2 };
        let packet = Length { at: HEAD + 1, width: 4, end: HEAD + 5 };
        let is_data = bytes.get(3) == Some(&DATA);
        let candidates = match speech {
            Speech::Quic => vec![message(0)],
            Speech::Http2 if is_data => vec![frame, message(HEAD)],
            Speech::Grpc if is_data => vec![frame, packet],
            Speech::Http2 | Speech::Grpc => vec![frame],
            Speech::Http1 => vec![],
        };
        Self(candidates.into_iter().filter(|length| length.is_right(bytes)).collect())
    }

    /// Makes them right again.
    pub(crate) fn mend(&self, bytes: &mut [u8]) {
        self.0.iter().for_each(|length| length.write(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_layer_are_mended() {
        let mut frame = [&[0, 0, 7, DATA, 0, 0, 0, 0, 1][..], &[0, 0, 0, 0, 2], b"ab"].concat();
        let lengths = Lengths::of(Speech::Grpc, &frame);
        frame.extend_from_slice(b"cd");
        lengths.mend(&mut frame);
        assert_eq!(frame, [&[0, 0, 9, DATA, 0, 0, 0, 0, 1][..], &[0, 0, 0, 0, 4], b"abcd"].concat());

        let mut message = b"\0\x02ab".to_vec();
        let lengths = Lengths::of(Speech::Quic, &message);
        message.truncate(3);
        lengths.mend(&mut message);
        assert_eq!(message, b"\0\x01a");
    }

    #[test]
    fn what_was_no_length_stays() {
        let mut raw = b"ping".to_vec();
        Lengths::of(Speech::Quic, &raw).mend(&mut raw);
        assert_eq!(raw, b"ping");
        Lengths::of(Speech::Http2, b"PRI * HTTP/2.0").mend(&mut raw);
        assert_eq!(raw, b"ping");
    }
}
