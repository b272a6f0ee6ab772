//! The reasons to give up on a client.

use crate::hpack::HpackError;

/// Why a client's bytes cannot be carried on. The connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The connection does not begin with HTTP/2's preface (RFC 9113
    /// section 3.4).
    #[error("connection does not begin with the http/2 preface")]
    Preface,
    /// A frame of any type that is longer than announced (RFC 9113 section 4.2).
    #[error("frame of {length} bytes is over the announced {max}")]
    FrameTooLong {
        /// Length of the payload in bytes.
        length: usize,
        /// The announced limit in bytes.
        max: usize,
    },
    /// HEADERS outside of any stream (RFC 9113 section 6.2).
    #[error("headers on stream 0")]
    HeadersOnStreamZero,
    /// HEADERS too short for their padding or priority (RFC 9113 section 6.2).
    #[error("headers on stream {stream} are shorter than their padding and priority")]
    HeadersTooShort {
        /// The stream.
        stream: u32,
    },
    /// Something else than the CONTINUATION of an unfinished block (RFC 9113
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
    /// A CONTINUATION of nothing (RFC 9113 section 6.10).
    #[error("continuation on stream {stream} without an unfinished header block")]
    StrayContinuation {
        /// The stream.
        stream: u32,
    },
    /// A client cannot push (RFC 9113 section 8.4); the frame would also change
    /// the compression state.
    #[error("push promise from a client")]
    PushPromise,
    /// A header block of too many bytes.
    #[error("header block is over the limit of {max} bytes")]
    BlockTooLarge {
        /// [`Limits::max_block`](super::Limits::max_block).
        max: usize,
    },
    /// A header block in too many frames.
    #[error("header block in more than {max} continuation frames")]
    TooManyContinuations {
        /// The limit.
        max: u32,
    },
    /// A header block that cannot be decoded or decodes to too much.
    #[error(transparent)]
    Hpack(#[from] HpackError),
    /// Too many header fields in one push.
    #[error("headers of one read are over the limit of {max} bytes")]
    PushTooLarge {
        /// [`Limits::max_push_headers`](super::Limits::max_push_headers).
        max: usize,
    },
    /// The caller took more than [`Rewriter::passthrough`](super::Rewriter::passthrough) allows, so nobody
    /// knows where the next frame begins. A bug on our side.
    #[error("more bytes went around the rewriter than it allowed")]
    PassedTooMuch,
}
