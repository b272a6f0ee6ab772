//! Errors of a client that the rewriter cannot go on after.

use crate::hpack::HpackError;

/// Why a client's connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// No HTTP/2 preface (RFC 9113 section 3.4).
    #[error("connection does not begin with the http/2 preface")]
    Preface,
    /// A frame over SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2).
    #[error("frame of {length} bytes is over the announced {max}")]
    FrameTooLong {
        /// Length of the payload in bytes.
        length: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// HEADERS on stream 0 (RFC 9113 section 6.2).
    #[error("headers on stream 0")]
    HeadersOnStreamZero,
    /// HEADERS too short for their padding or priority (RFC 9113 section 6.2).
    #[error("headers on stream {stream} are shorter than their padding and priority")]
    HeadersTooShort {
        /// The stream.
        stream: u32,
    },
    /// A frame other than the CONTINUATION of an unfinished block (RFC 9113
    /// section 6.10).
    #[error("frame of type {kind} on stream {stream} inside a header block of stream {open}")]
    Interleaved {
        /// Stream of the unfinished block.
        open: u32,
        /// Type of the frame in between.
        kind: u8,
        /// Stream of the frame in between.
        stream: u32,
    },
    /// A CONTINUATION without an unfinished block (RFC 9113 section 6.10).
    #[error("continuation on stream {stream} without an unfinished header block")]
    StrayContinuation {
        /// The stream.
        stream: u32,
    },
    /// PUSH_PROMISE, which a client must not send (RFC 9113 section 8.4) and which
    /// would change the compression state.
    #[error("push promise from a client")]
    PushPromise,
    /// A header block of too many bytes.
    #[error("header block is over the limit of {max} bytes")]
    BlockTooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// A header block in too many frames.
    #[error("header block in more than {max} continuation frames")]
    TooManyContinuations {
        /// The limit.
        max: u32,
    },
    /// A header block that is malformed or decodes to too much.
    #[error(transparent)]
    Hpack(#[from] HpackError),
    /// Too many header fields in one push.
    #[error("headers of one read are over the limit of {max} bytes")]
    PushTooLarge {
        /// The limit in bytes.
        max: usize,
    },
    /// The caller passed on more than
    /// [`Rewriter::passthrough`](super::Rewriter::passthrough) allows: a bug of ours.
    #[error("more bytes went around the rewriter than it allowed")]
    PassedTooMuch,
}
