//! Errors of a client that the rewriter cannot go on after.

use crate::hpack::HpackError;

/// Why a client's connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct RewriteError(#[from] Fault);

/// Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// No HTTP/2 preface (RFC 9113 section 3.4).
    #[error("connection does not begin with the http/2 preface")]
    Preface,
    /// A frame over SETTINGS_MAX_FRAME_SIZE (RFC 9113 section 4.2).
    #[error("frame of {length} bytes is over the announced {max}")]
    FrameTooLong { length: usize, max: usize },
    /// HEADERS on stream 0 (RFC 9113 section 6.2).
    #[error("headers on stream 0")]
    HeadersOnStreamZero,
    /// HEADERS too short for their padding or priority (RFC 9113 section 6.2).
    #[error("headers on stream {stream} are shorter than their padding and priority")]
    HeadersTooShort { stream: u32 },
    /// A frame other than the CONTINUATION of an unfinished block (RFC 9113
    /// section 6.10).
    #[error("frame of type {kind} on stream {stream} inside a header block of stream {open}")]
    Interleaved { open: u32, kind: u8, stream: u32 },
    /// A CONTINUATION without an unfinished block (RFC 9113 section 6.10).
    #[error("continuation on stream {stream} without an unfinished header block")]
    StrayContinuation { stream: u32 },
    /// PUSH_PROMISE, which a client must not send (RFC 9113 section 8.4) and which
    /// would change the compression state.
    #[error("push promise from a client")]
    PushPromise,
    #[error("header block is over the limit of {max} bytes")]
    BlockTooLarge { max: usize },
    #[error("header block in more than {max} continuation frames")]
    TooManyContinuations { max: u32 },
    #[error(transparent)]
    Hpack(#[from] HpackError),
    #[error("headers of one read are over the limit of {max} bytes")]
    PushTooLarge { max: usize },
    /// More than `Rewriter::passthrough`: a mistake of the caller.
    #[error("more bytes went around the rewriter than it allowed")]
    PassedTooMuch,
}
