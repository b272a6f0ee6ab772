//! Makes the requests of grpc-go acceptable to Rust's HTTP/2.
//!
//! A grpc-go client that dials a Unix socket sends the socket's path as
//! `:authority`: as it is (`/etc/kubernetes/x.socket`, up to grpc-go 1.56) or
//! percent-encoded (`%2Fetc%2Fkubernetes%2Fx.socket`, from 1.57). The `http` crate
//! refuses both, and `h2` resets the stream. A [`Rewriter`] stands between the
//! socket and the HTTP/2 server, from client to server only, and replaces every
//! `:authority` by `localhost`.
//!
//! Header blocks refer to earlier ones (RFC 7541), so the rewriter decodes every
//! block and encodes it again without a reference to the dynamic table. It keeps
//! that table itself, in one allocation per entry; the table of the server stays
//! empty. Entries in `h2`'s table would pin its read buffers for as long as the
//! connection lasts.
//!
//! Promises:
//!
//! * every `:authority` is replaced, also an acceptable one. None is added, and
//!   the server still refuses a second one;
//! * names, other values, their order and "never indexed" marks are kept;
//! * other frames pass byte for byte, and only HEADERS and CONTINUATION are held
//!   back;
//! * memory is bounded, see `Limits`.
//!
//! Padding, unknown flags and the priority of HEADERS (deprecated by RFC 9113
//! section 5.3.2) are dropped, and blocks are cut into frames anew.
//!
//! Does not: follow the streams' states, judge header fields, or look at frames
//! of the server. The server answers all mistakes after which the rewriter can go
//! on.

mod error;
mod frame;

#[cfg(test)]
mod tests;

use bytes::BytesMut;

use self::error::Fault;
pub use self::error::RewriteError;
use self::frame::{CONTINUATION, END_HEADERS, END_STREAM, HEAD_LEN, HEADERS, Head, PUSH_PROMISE};
use crate::hpack::{self, Decoder, Field, HpackError};

/// The new value of every `:authority`.
const REPLACEMENT: &[u8] = b"localhost";

/// The first bytes of a client (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Range of SETTINGS_MAX_FRAME_SIZE, in bytes (RFC 9113 section 6.5.2).
const FRAME_SIZES: (usize, usize) = (16_384, 16_777_215);

/// Most CONTINUATION frames of one block. They may be empty, so without this
/// limit a client could send them for ever. With fewer, a client that fills its
/// frames could not send a block of `max_block`.
const MAX_CONTINUATIONS: u32 = 16;

/// Bounds on the memory that a client can make a [`Rewriter`] use, in bytes.
///
/// At rest, a rewriter holds the client's dynamic table, at most 4,096 by the count
/// of RFC 7541 section 4.1. An arriving block
/// adds up to twice `max_block`. Rewriting it, inside one `push`, takes up to
/// twice `max_header_list`, and up to 1.6 times `max_block` for the text of one
/// field. `push` appends at most the length of its input, a frame's head and
/// `max_push_headers`.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Payload of a HEADERS frame and its CONTINUATION frames together.
    max_block: usize,
    /// The server's SETTINGS_MAX_FRAME_SIZE.
    max_frame_size: usize,
    /// Decoded fields of one block by the count of RFC 9113 section 6.5.2: names,
    /// values and 32 bytes for each field.
    max_header_list: usize,
    /// Rewritten frames out of one `push`. A block of a few bytes can stand for
    /// `max_header_list`, so without this limit a large read could grow a
    /// thousandfold. An ordinary request grows from 20 bytes to 300.
    max_push_headers: usize,
}

impl Limits {
    /// A request of grpc-go needs less than 1 KiB of each.
    fn new(max_frame_size: usize) -> Self {
        Self {
            max_block: 16 * 1024,
            max_frame_size: max_frame_size.clamp(FRAME_SIZES.0, FRAME_SIZES.1),
            max_header_list: 32 * 1024,
            max_push_headers: 1024 * 1024,
        }
    }
}

/// The rewriter of one client connection.
#[derive(Debug)]
pub struct Rewriter {
    limits: Limits,
    decoder: Decoder,
    state: State,
    /// The unfinished header block, from the head of its HEADERS frame to the end
    /// of its last frame.
    block: Option<Block>,
}

// Every idle gRPC connection holds one.
const _: () = assert!(size_of::<Rewriter>() <= 184);

/// The next byte of the client.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Part of the preface, after `seen` bytes of it.
    Preface { seen: usize },
    /// Part of a frame's head, after `seen` bytes of it.
    Head { seen: usize, bytes: [u8; HEAD_LEN] },
    /// Payload that passes unread, with `left` bytes to come.
    Opaque { left: usize },
    /// Payload of this HEADERS or CONTINUATION frame, with `left` bytes to come.
    Fields { left: usize, frame: Head },
    /// Refused, after this fault.
    Failed(Fault),
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
    /// The received part, without the padding and priority of complete frames.
    fragments: Vec<u8>,
    /// Declared payload of its frames in bytes; `max_block` bounds it.
    declared: usize,
    continuations: u32,
}

/// The output of one `push`.
struct Output<'a> {
    bytes: &'a mut BytesMut,
    /// The unused part of `max_push_headers`.
    headers_left: usize,
}

impl Rewriter {
    /// A rewriter for a new connection to a server that announces
    /// `max_frame_size` as SETTINGS_MAX_FRAME_SIZE, in bytes.
    pub fn new(max_frame_size: usize) -> Self {
        Self::within(Limits::new(max_frame_size))
    }

    const fn within(limits: Limits) -> Self {
        Self { limits, decoder: Decoder::new(), state: State::Preface { seen: 0 }, block: None }
    }

    /// Consumes the next bytes of the client, in pieces of any size, and appends
    /// bytes for the server to `out`.
    ///
    /// # Errors
    /// When the connection has to be closed. The frames in `out` are whole and may
    /// still be given to the server. Every later push returns the same error.
    pub fn push(&mut self, input: &[u8], out: &mut BytesMut) -> Result<(), RewriteError> {
        let out = Output { bytes: out, headers_left: self.limits.max_push_headers };
        self.consume(input, out).map_err(|fault| {
            self.state = State::Failed(fault);
            self.block = None;
            fault.into()
        })
    }

    /// Number of the client's next bytes that may be given to the server without
    /// `push`, behind everything that `push` has appended: the rest of a frame
    /// that passes unread. With 0, the next bytes have to go through `push`.
    pub const fn passthrough(&self) -> usize {
        match self.state {
            State::Opaque { left } => left,
            State::Preface { .. } | State::Head { .. } | State::Fields { .. } | State::Failed(_) => 0,
        }
    }

    /// Records that `n` bytes went to the server without `push`. With more than
    /// [`Self::passthrough`], the next `push` fails.
    pub fn passed(&mut self, n: usize) {
        if n == 0 {
            return;
        }
        self.state = match self.passthrough().checked_sub(n) {
            Some(0) => State::NEXT_FRAME,
            Some(left) => State::Opaque { left },
            None => State::Failed(Fault::PassedTooMuch),
        };
    }

    fn consume(&mut self, mut input: &[u8], mut out: Output<'_>) -> Result<(), Fault> {
        while !input.is_empty() {
            match self.state {
                State::Preface { seen } => {
                    let part = take(&mut input, PREFACE.len() - seen);
                    if !PREFACE[seen..].starts_with(part) {
                        return Err(Fault::Preface);
                    }
                    out.bytes.extend_from_slice(part);
                    let seen = seen + part.len();
                    self.state =
                        if seen == PREFACE.len() { State::NEXT_FRAME } else { State::Preface { seen } };
                }
                State::Head { seen, mut bytes } => {
                    let part = take(&mut input, HEAD_LEN - seen);
                    let end = seen + part.len();
                    bytes[seen..end].copy_from_slice(part);
                    if end < HEAD_LEN {
                        self.state = State::Head { seen: end, bytes };
                    } else {
                        self.begin_frame(bytes, &mut out)?;
                    }
                }
                State::Opaque { left } => {
                    let part = take(&mut input, left);
                    out.bytes.extend_from_slice(part);
                    self.passed(part.len());
                }
                State::Fields { left, frame } => {
                    let part = take(&mut input, left);
                    if let Some(block) = &mut self.block {
                        block.fragments.extend_from_slice(part);
                    }
                    self.state = State::Fields { left: left - part.len(), frame };
                    self.end_fields(&mut out)?;
                }
                State::Failed(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    fn begin_frame(&mut self, head: [u8; HEAD_LEN], out: &mut Output<'_>) -> Result<(), Fault> {
        let frame = Head::parse(head);
        if self.begin_fields(frame)? {
            self.state = State::Fields { left: frame.length, frame };
            return self.end_fields(out);
        }
        // Byte for byte, with the reserved bit.
        out.bytes.extend_from_slice(&head);
        self.state = if frame.length == 0 { State::NEXT_FRAME } else { State::Opaque { left: frame.length } };
        Ok(())
    }

    /// Whether the frame carries header fields, after the checks that need only
    /// its head: no memory is used for a frame that they refuse.
    fn begin_fields(&mut self, frame: Head) -> Result<bool, Fault> {
        let Head { length, kind, stream, .. } = frame;
        let max = self.limits.max_frame_size;
        if length > max {
            return Err(Fault::FrameTooLong { length, max });
        }
        let block = match (&mut self.block, kind) {
            (Some(block), CONTINUATION) if block.stream == stream => {
                block.continuations += 1;
                block
            }
            (Some(block), _) => {
                return Err(Fault::Interleaved { open: block.stream, kind, stream });
            }
            (None, CONTINUATION) => return Err(Fault::StrayContinuation { stream }),
            (None, PUSH_PROMISE) => return Err(Fault::PushPromise),
            (None, HEADERS) if stream == 0 => return Err(Fault::HeadersOnStreamZero),
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
            return Err(Fault::BlockTooLarge { max: self.limits.max_block });
        }
        if block.continuations > MAX_CONTINUATIONS {
            return Err(Fault::TooManyContinuations { max: MAX_CONTINUATIONS });
        }
        Ok(true)
    }

    /// Ends a HEADERS or CONTINUATION frame whose payload is complete.
    fn end_fields(&mut self, out: &mut Output<'_>) -> Result<(), Fault> {
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
        self.put_block(&block, &fields, out)
    }

    /// Decodes a whole block and encodes it again with the new authority.
    fn rewrite(&mut self, block: &[u8]) -> Result<Vec<u8>, HpackError> {
        let mut fields = Vec::new();
        self.decoder.decode(block, self.limits.max_header_list, |field| {
            let value = if field.name == b":authority" { REPLACEMENT } else { field.value };
            hpack::encode(Field { value, ..field }, &mut fields);
        })?;
        Ok(fields)
    }

    /// Appends the new block in as many frames as it needs, or nothing.
    fn put_block(&self, block: &Block, fields: &[u8], out: &mut Output<'_>) -> Result<(), Fault> {
        let frames = fields.len().div_ceil(self.limits.max_frame_size).max(1);
        let size = fields.len() + frames * HEAD_LEN;
        out.headers_left = out
            .headers_left
            .checked_sub(size)
            .ok_or(Fault::PushTooLarge { max: self.limits.max_push_headers })?;
        out.bytes.reserve(size);
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
            Head { length: part.len(), kind, flags, stream: block.stream }.put(out.bytes);
            out.bytes.extend_from_slice(part);
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
