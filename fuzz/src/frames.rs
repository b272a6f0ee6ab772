//! Byte streams that are cut into frames. A stream means the same in pieces of any size.

use bytes::{Bytes, BytesMut};
use tunnel_proto::authority::Rewriter;
use tunnel_proto::deframe::{DeframeError, Deframer};

/// SETTINGS_MAX_FRAME_SIZE of the rewriter, in bytes: the smallest one, so that inputs reach it.
const MAX_FRAME: usize = 16_384;

/// Longest message of the deframer, in bytes: short enough for inputs to be longer.
const MAX_MESSAGE: usize = 300;

/// The sizes of pieces that an input is cut into: the first byte of the input, from 1.
fn pieces(input: &[u8]) -> (usize, &[u8]) {
    match input {
        [first, rest @ ..] => (usize::from(*first) + 1, rest),
        [] => (1, input),
    }
}

/// The HTTP/2 of a client, whose `:authority` is replaced.
pub(crate) fn authority(input: &[u8]) {
    let (size, stream) = pieces(input);
    let (whole, ends_whole) = rewritten(stream, usize::MAX);
    let (cut, ends_cut) = rewritten(stream, size);
    // One push has a budget of headers, so a stream may fail as a whole and pass in pieces.
    match (ends_whole, ends_cut) {
        (Ok(()), Ok(())) => assert_eq!(whole, cut, "pieces of {size} bytes give another result"),
        (Ok(()), Err(error)) => panic!("passes as a whole, and not in pieces of {size} bytes: {error}"),
        (Err(_), Ok(()) | Err(_)) => assert!(cut.starts_with(&whole), "another result before the failure"),
    }
}

fn rewritten(stream: &[u8], size: usize) -> (BytesMut, Result<(), String>) {
    let mut rewriter = Rewriter::new(MAX_FRAME);
    let mut out = BytesMut::new();
    for piece in stream.chunks(size.min(stream.len()).max(1)) {
        if let Err(error) = rewriter.push(piece, &mut out) {
            let again = rewriter.push(piece, &mut out).err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "a failed rewriter goes on");
            assert_eq!(rewriter.passthrough(), 0, "a failed rewriter lets bytes pass");
            return (out, Err(error.to_string()));
        }
    }
    (out, Ok(()))
}

/// Messages behind their length.
pub(crate) fn deframe(input: &[u8]) {
    let (size, stream) = pieces(input);
    for make in [Deframer::grpc, Deframer::short] {
        let whole = messages(make(MAX_MESSAGE), stream, usize::MAX);
        assert_eq!(whole, messages(make(MAX_MESSAGE), stream, size), "pieces of {size} bytes");
        assert!(whole.0.iter().all(|message| message.len() <= MAX_MESSAGE));
    }
}

type Messages = (Vec<Bytes>, Result<Bytes, DeframeError>);

/// The messages, and the bytes behind the last one or the error.
fn messages(mut deframer: Deframer, stream: &[u8], size: usize) -> Messages {
    let mut messages = Vec::new();
    for piece in stream.chunks(size.min(stream.len()).max(1)) {
        deframer.push(Bytes::copy_from_slice(piece));
        loop {
            match deframer.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, Ok(deframer.into_rest()))
}
