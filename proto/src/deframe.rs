//! Cuts a byte stream into messages. A message in one piece is not copied.
//!
//! Frames are gRPC's (one byte "compressed", four bytes length, big endian) or our
//! own (two bytes length, big endian). A declared length over the limit is refused
//! before any memory is used for it.

use bytes::{Buf, Bytes, BytesMut};

/// Room that is made for a message before its bytes are there. With less, messages of usual lengths are
/// copied; with more, five bytes can take as much memory.
const AT_ONCE: usize = 64 * 1024;

/// Why the next message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeframeError {
    /// The declared length is over the limit.
    #[error("message of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Declared length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A gRPC message with the "compressed" byte set, which no side negotiates.
    #[error("compressed grpc message without an agreed encoding")]
    Compressed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Grpc,
    Short,
}

impl Kind {
    const fn head_len(self) -> usize {
        match self {
            Self::Grpc => 5,
            Self::Short => 2,
        }
    }
}

/// An incremental reader of frames. Holds at most one incomplete message (the limit
/// plus its head) and the rest of the newest chunk.
#[derive(Debug)]
pub struct Deframer {
    kind: Kind,
    limit: usize,
    /// The begun message that spans chunks, with its head.
    partial: BytesMut,
    /// The rest of the newest chunk.
    chunk: Bytes,
}

// Every idle gRPC connection holds one.
const _: () = assert!(size_of::<Deframer>() <= 80);

impl Deframer {
    /// For gRPC messages of at most `limit` bytes.
    pub fn grpc(limit: usize) -> Self {
        Self::new(Kind::Grpc, limit)
    }

    /// For messages behind a two-byte length, of at most `limit` bytes.
    pub fn short(limit: usize) -> Self {
        Self::new(Kind::Short, limit)
    }

    fn new(kind: Kind, limit: usize) -> Self {
        Self { kind, limit, partial: BytesMut::new(), chunk: Bytes::new() }
    }

    /// Adds the next received bytes. Call [`Self::next`] until it returns `None`
    /// before the next `push`; otherwise the rest of the old chunk is copied.
    pub fn push(&mut self, chunk: Bytes) {
        if !self.chunk.is_empty() {
            self.partial.extend_from_slice(&self.chunk);
        }
        self.chunk = chunk;
    }

    /// The next whole message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// See [`DeframeError`]. The deframer must not be used any more.
    #[allow(clippy::should_implement_trait, reason = "fallible, and ends only when the stream does")]
    pub fn next(&mut self) -> Result<Option<Bytes>, DeframeError> {
        let head_len = self.kind.head_len();
        if self.partial.is_empty() {
            if let Some(length) = self.length(&self.chunk)? {
                if self.chunk.len() >= head_len + length {
                    self.chunk.advance(head_len);
                    return Ok(Some(self.chunk.split_to(length)));
                }
                self.partial.reserve((head_len + length).min(AT_ONCE));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
            return Ok(None);
        }
        self.top_up(head_len);
        let Some(length) = self.length(&self.partial)? else { return Ok(None) };
        self.top_up(head_len + length);
        if self.partial.len() < head_len + length {
            return Ok(None);
        }
        let mut message = self.partial.split_to(head_len + length).freeze();
        message.advance(head_len);
        Ok(Some(message))
    }

    /// The bytes behind the last message, such as raw bytes behind a `Dial`.
    pub fn into_rest(mut self) -> Bytes {
        if self.partial.is_empty() {
            return self.chunk;
        }
        self.partial.extend_from_slice(&self.chunk);
        self.partial.freeze()
    }

    /// The bytes of the begun message.
    pub fn waiting(&self) -> usize {
        self.partial.len() + self.chunk.len()
    }

    /// Whether a message has begun and not ended.
    pub fn is_mid_message(&self) -> bool {
        self.waiting() > 0
    }

    /// Moves bytes from the chunk until `partial` holds `want`.
    fn top_up(&mut self, want: usize) {
        let missing = want.saturating_sub(self.partial.len()).min(self.chunk.len());
        // A length alone takes no more memory than its bytes do later.
        self.partial
            .reserve(want.min(AT_ONCE.max(self.partial.len() + missing)).saturating_sub(self.partial.len()));
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }

    fn length(&self, bytes: &[u8]) -> Result<Option<usize>, DeframeError> {
        let length = match (self.kind, bytes) {
            (Kind::Grpc, [compressed, a, b, c, d, ..]) => {
                if *compressed != 0 {
                    return Err(DeframeError::Compressed);
                }
                u32::from_be_bytes([*a, *b, *c, *d]) as usize
            }
            (Kind::Short, [a, b, ..]) => usize::from(u16::from_be_bytes([*a, *b])),
            (Kind::Grpc | Kind::Short, _) => return Ok(None),
        };
        if length > self.limit {
            return Err(DeframeError::TooLong { length, limit: self.limit });
        }
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(kind: Kind, messages: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            match kind {
                Kind::Grpc => {
                    wire.push(0);
                    wire.extend_from_slice(&(message.len() as u32).to_be_bytes());
                }
                Kind::Short => wire.extend_from_slice(&(message.len() as u16).to_be_bytes()),
            }
            wire.extend_from_slice(message);
        }
        wire
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..20),
            grpc in any::<bool>(),
        ) {
            let kind = if grpc { Kind::Grpc } else { Kind::Short };
            let wire = framed(kind, &messages);
            let mut deframer = Deframer::new(kind, 64);
            let (mut seen, mut rest, mut cut) = (Vec::new(), &wire[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                rest = later;
                deframer.push(Bytes::copy_from_slice(now));
                while let Some(message) = deframer.next().unwrap() {
                    seen.push(message.to_vec());
                }
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(!deframer.is_mid_message());
        }
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied() {
        let wire = Bytes::from(framed(Kind::Grpc, &[b"hello".to_vec()]));
        let at = wire[5..].as_ptr();
        let mut deframer = Deframer::grpc(64);
        deframer.push(wire);
        let message = deframer.next().unwrap().unwrap();
        assert_eq!(&message[..], b"hello");
        assert_eq!(message.as_ptr(), at);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_its_head_alone() {
        let mut deframer = Deframer::grpc(64);
        deframer.push(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
        assert_eq!(deframer.next(), Err(DeframeError::TooLong { length: 0xffff_ffff, limit: 64 }));
        let mut deframer = Deframer::grpc(64);
        deframer.push(Bytes::from_static(&[1, 0, 0, 0, 1, 7]));
        assert_eq!(deframer.next(), Err(DeframeError::Compressed));
    }

    #[test]
    fn a_declared_length_alone_takes_little_memory() {
        let mut deframer = Deframer::grpc(4 << 20);
        deframer.push(Bytes::from_static(&[0, 0, 0x3f, 0xff, 0xff]));
        assert_eq!(deframer.next(), Ok(None));
        assert!(deframer.partial.capacity() <= AT_ONCE && deframer.waiting() == 5);
        let chunk = Bytes::from(vec![7; 16 * 1024]);
        for _ in 0..255 {
            deframer.push(chunk.clone());
            assert_eq!(deframer.next(), Ok(None));
            assert!(deframer.partial.capacity() <= AT_ONCE.max(2 * deframer.waiting()));
        }
        deframer.push(chunk);
        assert_eq!(deframer.next().unwrap().unwrap().len(), 0x3f_ffff);
    }

    #[test]
    fn bytes_behind_the_last_message_are_kept() {
        let mut deframer = Deframer::short(64);
        deframer.push(Bytes::from_static(b"\x00\x02hi"));
        assert_eq!(deframer.next().unwrap().unwrap(), "hi");
        deframer.push(Bytes::from_static(b"raw bytes"));
        assert_eq!(deframer.into_rest(), "raw bytes");
    }
}
