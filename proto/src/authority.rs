//! Makes the requests of grpc-go acceptable to Rust's HTTP/2.
//!
//! A grpc-go client that dials a Unix socket sends the socket's path as
//! `:authority`: as it is (`/etc/kubernetes/x.socket`, up to grpc-go 1.56) or
//! percent-encoded (`%2Fetc%2Fkubernetes%2Fx.socket`, from 1.57). The `http` crate
//! refuses both, so the stream is reset before any handler sees it. A
//! [`Rewriter`] stands between the socket and the HTTP/2 server, on the way from
//! client to server only, and replaces the value of every `:authority` by
//! `localhost`.
//!
//! Owns the client's header compression state. Header blocks refer to earlier
//! ones (RFC 7541), so none can be left alone: each is decoded, and encoded again
//! without any reference to a dynamic table. The server's decoder therefore
//! never has state of its own to disagree with ours.
//!
//! Promises:
//!
//! * every `:authority` is replaced, also one that would have been accepted, so
//!   that there is one behaviour to test and the server learns nothing from it.
//!   None is added, and each of several is replaced, which the server then
//!   refuses as it would have done;
//! * names, other values, their order and "never indexed" marks are kept;
//! * other frames pass byte for byte, and no frame's payload is held back but
//!   that of HEADERS and CONTINUATION;
//! * memory is bounded, see [`Limits`].
//!
//! Changes of framing that nobody can observe behind the server: padding is
//! dropped, as are unknown flags of HEADERS, and so is the priority inside
//! HEADERS, which RFC 9113 section 5.3.2 deprecates and the server ignores; the
//! cut between HEADERS and CONTINUATION is made anew.
//!
//! Does not: read or write sockets, follow the streams' states, judge header
//! fields, or look at what the server sends. It refuses only what it cannot carry
//! on from; all other mistakes of the client are left for the server to answer.

mod error;
mod frame;

#[cfg(test)]
mod tests;

use bytes::BytesMut;

pub use self::error::RewriteError;
use self::frame::{CONTINUATION, END_HEADERS, END_STREAM, HEAD_LEN, HEADERS, Head, PUSH_PROMISE};
use crate::hpack;
pub use crate::hpack::HpackError;

/// What every `:authority` becomes.
const REPLACEMENT: &[u8] = b"localhost";

/// What a client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The smallest frame size an endpoint may announce, and what holds if it
/// announces none, in bytes (RFC 9113 section 6.5.2).
const MIN_MAX_FRAME_SIZE: usize = 16_384;

/// The largest frame size there is, in bytes (RFC 9113 section 6.5.2).
const MAX_MAX_FRAME_SIZE: usize = 16_777_215;

/// Most CONTINUATION frames of one block. They may be empty, so the limit on
/// bytes alone would let a client send them for ever. A client that fills its
/// frames needs one for each 16 KiB of the block.
const MAX_CONTINUATIONS: u32 = 16;

/// What a client may make a [`Rewriter`] hold. All sizes are in bytes.
///
/// At rest a rewriter holds the client's dynamic table, accounted as in RFC 7541
/// section 4.1: at most the larger of 4,096 and `header_table_size`. While a
/// block is arriving, it holds up to twice `max_block` more. While a block is
/// rewritten, inside one `push`, the new block takes up to twice
/// `max_header_list`, and the text of one field up to 1.6 times `max_block` plus
/// `max_header_list`. `push` appends to the caller's buffer no more than the
/// input's length, plus the begun head of a frame, plus `max_push_headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Payload of a HEADERS frame and its CONTINUATION frames together.
    pub max_block: usize,
    /// The SETTINGS_HEADER_TABLE_SIZE which the server announces; 4,096 if it
    /// announces none.
    pub header_table_size: usize,
    /// The SETTINGS_MAX_FRAME_SIZE which the server announces. Values under
    /// 16,384 cannot be announced and count as 16,384.
    pub max_frame_size: usize,
    /// Decoded fields of one block, counted as in RFC 9113 section 6.5.2: names,
    /// values and 32 bytes for each field.
    pub max_header_list: usize,
    /// Rewritten HEADERS and CONTINUATION frames out of one call of
    /// [`Rewriter::push`]. A block of a few bytes can stand for
    /// `max_header_list`, so a large read could otherwise become thousands of
    /// times larger. An ordinary request grows from about 20 bytes to 300.
    pub max_push_headers: usize,
}

impl Default for Limits {
    /// 16 KiB blocks, 32 KiB lists, 1 MiB from one push, and the frame and table
    /// sizes of a server that announces none.
    fn default() -> Self {
        Self {
            max_block: 16 * 1024,
            header_table_size: 4096,
            max_frame_size: MIN_MAX_FRAME_SIZE,
            max_header_list: 32 * 1024,
            max_push_headers: 1024 * 1024,
        }
    }
}

/// The rewriter of one client connection. See the module's text.
#[derive(Debug)]
pub struct Rewriter {
    limits: Limits,
    decoder: hpack::Decoder,
    state: State,
    /// The unfinished header block: there between the head of its HEADERS frame
    /// and the end of its last frame.
    block: Option<Block>,
}

/// What the next byte is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Part of the preface, of which `seen` bytes have come.
    Preface { seen: usize },
    /// Part of a frame's head, of which `seen` bytes have come.
    Head { seen: usize, bytes: [u8; HEAD_LEN] },
    /// Payload nobody looks at, with `left` bytes to come.
    Opaque { left: usize },
    /// Payload of this HEADERS or CONTINUATION frame, with `left` bytes to come.
    Fields { left: usize, frame: Head },
    /// Of no interest any more.
    Failed(RewriteError),
}

impl State {
    const NEXT_FRAME: Self = Self::Head { seen: 0, bytes: [0; HEAD_LEN] };
}

/// A header block that is arriving.
#[derive(Debug)]
struct Block {
    stream: u32,
    /// Whether its HEADERS frame ends the stream.
    end_stream: bool,
    /// What has come, without padding and priority once its frame is complete.
    fragments: Vec<u8>,
    /// Payload of its frames as declared, in bytes; what `max_block` limits.
    declared: usize,
    continuations: u32,
}

impl Rewriter {
    /// A rewriter for a connection that has not yet said anything.
    pub fn new(limits: Limits) -> Self {
        let max_frame_size = limits.max_frame_size.clamp(MIN_MAX_FRAME_SIZE, MAX_MAX_FRAME_SIZE);
        Self {
            limits: Limits { max_frame_size, ..limits },
            decoder: hpack::Decoder::new(limits.header_table_size),
            state: State::Preface { seen: 0 },
            block: None,
        }
    }

    /// Consumes the next bytes of the client, cut anywhere, and appends what the
    /// server is to see to `out`.
    ///
    /// # Errors
    /// When the connection has to be closed. The frames appended before are
    /// whole and may still be given to the server, but nothing comes after them:
    /// every later push of anything returns the same error.
    pub fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), RewriteError> {
        let result = self.consume(input, out);
        if let Err(error) = result {
            self.state = State::Failed(error);
            self.block = None;
        }
        result
    }

    /// How many of the client's next bytes, at most, may be given to the server
    /// without `push`: what is left of a frame that needs no look. They belong
    /// behind everything that `push` has appended so far.
    ///
    /// Zero means that the next bytes have to go through `push`.
    pub const fn passthrough(&self) -> usize {
        match self.state {
            State::Opaque { left } => left,
            State::Preface { .. } | State::Head { .. } | State::Fields { .. } | State::Failed(_) => 0,
        }
    }

    /// Tells that `n` bytes went to the server without `push`.
    ///
    /// More than [`Self::passthrough`] is a mistake of the caller's that cannot
    /// be repaired, and the next `push` fails.
    pub fn passed(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        self.state = match self.passthrough().checked_sub(n) {
            Some(0) => State::NEXT_FRAME,
            Some(left) => State::Opaque { left },
            None => State::Failed(RewriteError::PassedTooMuch),
        };
    }

    fn consume(&mut self, mut input: &[u8], out: &mut BytesMut) -> Result<(), RewriteError> {
        let mut headers_left = self.limits.max_push_headers;
        while !input.is_empty() {
            match self.state {
                State::Preface { seen } => self.take_preface(seen, &mut input, out)?,
                State::Head { seen, bytes } => {
                    self.take_head(seen, bytes, &mut input, out, &mut headers_left)?;
                }
                State::Opaque { left } => {
                    let part = take(&mut input, left);
                    out.extend_from_slice(part);
                    self.passed(part.len());
                }
                State::Fields { left, frame } => {
                    let part = take(&mut input, left);
                    if let Some(block) = &mut self.block {
                        block.fragments.extend_from_slice(part);
                    }
                    self.state = State::Fields { left: left - part.len(), frame };
                    self.end_fields(out, &mut headers_left)?;
                }
                State::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn take_preface(
        &mut self,
        seen: usize,
        input: &mut &[u8],
        out: &mut BytesMut,
    ) -> Result<(), RewriteError> {
        let (_, awaited) = PREFACE.split_at(seen);
        let part = take(input, awaited.len());
        if !awaited.starts_with(part) {
            return Err(RewriteError::Preface);
        }
        out.extend_from_slice(part);
        let seen = seen + part.len();
        self.state = if seen == PREFACE.len() { State::NEXT_FRAME } else { State::Preface { seen } };
        Ok(())
    }

    fn take_head(
        &mut self,
        seen: usize,
        mut bytes: [u8; HEAD_LEN],
        input: &mut &[u8],
        out: &mut BytesMut,
        headers_left: &mut usize,
    ) -> Result<(), RewriteError> {
        let (_, missing) = bytes.split_at_mut(seen);
        let part = take(input, missing.len());
        for (to, from) in missing.iter_mut().zip(part) {
            *to = *from;
        }
        let seen = seen + part.len();
        if seen < HEAD_LEN {
            self.state = State::Head { seen, bytes };
            return Ok(());
        }
        let frame = Head::parse(bytes);
        if self.begin_frame(frame)? {
            self.state = State::Fields { left: frame.length, frame };
            return self.end_fields(out, headers_left);
        }
        out.extend_from_slice(&bytes);
        self.state = match frame.length {
            0 => State::NEXT_FRAME,
            left => State::Opaque { left },
        };
        Ok(())
    }

    /// Whether the frame carries header fields, after the checks that need its
    /// head only: nothing is held for a frame which they refuse.
    fn begin_frame(&mut self, frame: Head) -> Result<bool, RewriteError> {
        let Head { length, kind, stream, .. } = frame;
        let max = self.limits.max_frame_size;
        if length > max {
            return Err(RewriteError::FrameTooLong { length, max });
        }
        let block = match (&mut self.block, kind) {
            (Some(block), CONTINUATION) if block.stream == stream => {
                block.continuations += 1;
                block
            }
            (Some(block), _) => {
                return Err(RewriteError::Interleaved { open: block.stream, kind, stream });
            }
            (None, CONTINUATION) => return Err(RewriteError::StrayContinuation { stream }),
            (None, PUSH_PROMISE) => return Err(RewriteError::PushPromise),
            (None, HEADERS) if stream == 0 => return Err(RewriteError::HeadersOnStreamZero),
            (none @ None, HEADERS) => none.insert(Block {
                stream,
                end_stream: frame.has(END_STREAM),
                fragments: Vec::new(),
                declared: 0,
                continuations: 0,
            }),
            (None, _) => return Ok(false),
        };
        block.declared += length;
        if block.declared > self.limits.max_block {
            return Err(RewriteError::BlockTooLarge { max: self.limits.max_block });
        }
        if block.continuations > MAX_CONTINUATIONS {
            return Err(RewriteError::TooManyContinuations { max: MAX_CONTINUATIONS });
        }
        Ok(true)
    }

    /// Does what is due at the end of a HEADERS or CONTINUATION frame, if that is
    /// where we are.
    fn end_fields(&mut self, out: &mut BytesMut, headers_left: &mut usize) -> Result<(), RewriteError> {
        let State::Fields { left: 0, frame } = self.state else { return Ok(()) };
        self.state = State::NEXT_FRAME;
        let Some(mut block) = self.block.take() else { return Ok(()) };
        if frame.kind == HEADERS {
            frame::strip(frame, &mut block.fragments)?;
        }
        if !frame.has(END_HEADERS) {
            self.block = Some(block);
            return Ok(());
        }
        let fields = self.rewrite(&block.fragments)?;
        self.put_block(&block, &fields, out, headers_left)
    }

    /// Decodes a whole block and encodes it again with the new authority.
    fn rewrite(&mut self, block: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut fields = Vec::new();
        self.decoder.decode(block, self.limits.max_header_list, |field| {
            let value = if field.name == b":authority" { REPLACEMENT } else { field.value };
            hpack::encode(hpack::Field { value, ..field }, &mut fields);
        })?;
        Ok(fields)
    }

    /// Appends the new block in as many frames as it needs, or nothing.
    fn put_block(
        &self,
        block: &Block,
        fields: &[u8],
        out: &mut BytesMut,
        headers_left: &mut usize,
    ) -> Result<(), RewriteError> {
        let frames = fields.len().div_ceil(self.limits.max_frame_size).max(1);
        let size = fields.len() + frames * HEAD_LEN;
        *headers_left = headers_left
            .checked_sub(size)
            .ok_or(RewriteError::PushTooLarge { max: self.limits.max_push_headers })?;
        out.reserve(size);
        let mut rest = fields;
        for at in 0..frames {
            let part = take(&mut rest, self.limits.max_frame_size);
            let (kind, mut flags) = match at {
                0 => (HEADERS, if block.end_stream { END_STREAM } else { 0 }),
                _ => (CONTINUATION, 0),
            };
            if at + 1 == frames {
                flags |= END_HEADERS;
            }
            Head { length: part.len(), kind, flags, stream: block.stream }.put(out);
            out.extend_from_slice(part);
        }
        Ok(())
    }
}

/// Cuts up to `most` bytes off the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}
