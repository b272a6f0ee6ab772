//! Unacceptable HTTP/2 ends with an error that names it.

use super::*;

#[test]
fn another_preface() {
    for (at, input) in [(0, b"GET / HTTP/1.1\r\n".as_slice()), (17, b"PRI * HTTP/2.0\r\n\rX")] {
        let mut rewriter = Rewriter::within(tight());
        let mut out = BytesMut::new();
        rewriter.push(&input[..at], &mut out).unwrap();
        assert_eq!(rewriter.push(&input[at..], &mut out), Err(Fault::Preface.into()));
    }
}

#[test]
fn frames_over_the_announced_size() {
    // HEADERS, DATA and a type nobody knows: the head is enough.
    for kind in [HEADERS, DATA, 0xfe] {
        let head = &frame(kind, END_HEADERS, 1, &[0; 16_385])[..HEAD_LEN];
        assert_eq!(rewrite(head), Err(Fault::FrameTooLong { length: 16_385, max: 16_384 }.into()));
    }
    let mut rewriter = started(Limits { max_frame_size: 20_000, ..tight() });
    let longest = frame(DATA, 0, 1, &[0; 20_000]);
    assert_eq!(rewrite_with(&mut rewriter, &longest).unwrap().len(), 1);
    let longer = frame(DATA, 0, 1, &[0; 20_001]);
    let refused = rewrite_with(&mut rewriter, &longer);
    assert_eq!(refused, Err(Fault::FrameTooLong { length: 20_001, max: 20_000 }.into()));
}

#[test]
fn headers_on_no_stream_and_pushes() {
    assert_eq!(rewrite(&frame(HEADERS, END_HEADERS, 0, &[])), Err(Fault::HeadersOnStreamZero.into()));
    // The reserved bit does not make it a stream.
    let reserved = frame(HEADERS, END_HEADERS, 0x8000_0000, &[]);
    assert_eq!(rewrite(&reserved), Err(Fault::HeadersOnStreamZero.into()));
    assert_eq!(rewrite(&frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 4])), Err(Fault::PushPromise.into()));
}

#[test]
fn headers_shorter_than_their_padding_and_priority() {
    let too_short = Err(Fault::HeadersTooShort { stream: 1 }.into());
    let cases: [(u8, &[u8]); 6] = [
        (PADDED, &[]),
        (PADDED, &[1]),
        (PADDED, &[2, 0]),
        (PRIORITY, &[0; 4]),
        (PADDED | PRIORITY, &[0; 5]),
        (PADDED | PRIORITY, &[1, 0, 0, 0, 0, 0]),
    ];
    for (flags, payload) in cases {
        let input = frame(HEADERS, flags | END_HEADERS, 1, payload);
        assert_eq!(rewrite(&input), too_short, "{flags:#x} {payload:?}");
    }
    // Nothing but padding is a block of no fields.
    assert!(rewrite(&frame(HEADERS, PADDED | END_HEADERS, 1, &[2, 0, 0])).is_ok());
}

#[test]
fn anything_but_the_continuation() {
    let open = frame(HEADERS, 0, 1, &[0x83]);
    for (kind, stream) in [(DATA, 1), (HEADERS, 1), (HEADERS, 3), (PING, 0), (0xfe, 1), (CONTINUATION, 3)] {
        let input = [open.clone(), frame(kind, END_HEADERS, stream, &[])].concat();
        assert_eq!(rewrite(&input), Err(Fault::Interleaved { open: 1, kind, stream }.into()));
    }
    let stray = frame(CONTINUATION, END_HEADERS, 1, &[]);
    assert_eq!(rewrite(&stray), Err(Fault::StrayContinuation { stream: 1 }.into()));
    let twice = [open, stray.clone(), stray].concat();
    assert_eq!(rewrite(&twice), Err(Fault::StrayContinuation { stream: 1 }.into()));
}

#[test]
fn continuation_floods() {
    // Empty ones: the count.
    let mut rewriter = started(tight());
    rewrite_with(&mut rewriter, &frame(HEADERS, 0, 1, &[])).unwrap();
    for _ in 0..MAX_CONTINUATIONS {
        rewrite_with(&mut rewriter, &frame(CONTINUATION, 0, 1, &[])).unwrap();
    }
    let refused = rewrite_with(&mut rewriter, &frame(CONTINUATION, END_HEADERS, 1, &[]));
    assert_eq!(refused, Err(Fault::TooManyContinuations { max: MAX_CONTINUATIONS }.into()));

    // Full ones: the bytes, known from the head.
    let too_large = Err(Fault::BlockTooLarge { max: 1000 }.into());
    assert_eq!(rewrite(&frame(HEADERS, END_HEADERS, 1, &[0; 1001])[..HEAD_LEN]), too_large);
    let mut rewriter = started(tight());
    rewrite_with(&mut rewriter, &frame(HEADERS, PADDED, 1, &[&[249], [0; 499].as_slice()].concat())).unwrap();
    rewrite_with(&mut rewriter, &frame(CONTINUATION, 0, 1, &[0; 500])).unwrap();
    assert_eq!(rewrite_with(&mut rewriter, &frame(CONTINUATION, END_HEADERS, 1, &[0])), too_large);
}

#[test]
fn blocks_that_cannot_be_decoded() {
    let cases = [
        ("be", HpackError::IndexOutOfRange { index: 62 }),
        ("80", HpackError::IndexOutOfRange { index: 0 }),
        ("ff8080808080", HpackError::IntegerOverflow),
        ("41", HpackError::Truncated),
        ("8320", HpackError::LateSizeUpdate),
        ("3fe21f", HpackError::SizeUpdateTooLarge { size: 4097, max: 4096 }),
        ("418106", HpackError::HuffmanPadding),
        ("4184ffffffff", HpackError::HuffmanEos),
    ];
    for (block, error) in cases {
        let input = frame(HEADERS, END_HEADERS, 1, &hex(block));
        assert_eq!(rewrite(&input), Err(Fault::Hpack(error).into()), "{block}");
    }
}

/// One entry of the table, named again and again.
fn bomb(references: usize) -> Vec<u8> {
    let mut block = block_of(&mut Encoder::new(), &[("x", &"0".repeat(900))], Choice::USUAL);
    block.resize(block.len() + references, 0xbe);
    frame(HEADERS, END_HEADERS, 1, &block)
}

#[test]
fn decompression_bombs() {
    // Each counts 1 + 900 + 32 bytes; 4,000 are allowed.
    assert_eq!(rewrite(&bomb(3)).unwrap().len(), 1);
    let too_large = HpackError::ListTooLarge { max: 4000 };
    assert_eq!(rewrite(&bomb(4)), Err(Fault::Hpack(too_large).into()));

    // Many blocks, each within the bound: a push gives 20,000 bytes at most.
    let mut rewriter = started(tight());
    rewrite_with(&mut rewriter, &bomb(0)).unwrap();
    let small = frame(HEADERS, END_HEADERS, 1, &[0xbe; 4]);
    let mut out = BytesMut::new();
    assert!(rewriter.push(&small.repeat(5), &mut out).is_ok());
    assert!(rewriter.push(&small.repeat(5), &mut out).is_ok(), "the bound is for each push");
    out.clear();
    let refused = rewriter.push(&small.repeat(6), &mut out);
    assert_eq!(refused, Err(Fault::PushTooLarge { max: 20_000 }.into()));
    assert_eq!(frames_of(&out).len(), 5, "whole frames only");
}

#[test]
fn the_bound_on_a_push_counts_heads() {
    // Already as the rewriter encodes it, so the length stays.
    let block = block_of(&mut Encoder::new(), &[("te", "trailers")], Choice::PLAIN);
    let input = frame(HEADERS, END_HEADERS, 1, &block).repeat(3);
    let exact = Limits { max_push_headers: input.len(), ..tight() };
    assert_eq!(rewrite_with(&mut started(exact), &input).unwrap().len(), 3);
    let max = input.len() - 1;
    let refused = rewrite_with(&mut started(Limits { max_push_headers: max, ..tight() }), &input);
    assert_eq!(refused, Err(Fault::PushTooLarge { max }.into()));
}

#[test]
fn nothing_comes_after_an_error() {
    let mut rewriter = started(tight());
    let mut out = BytesMut::new();
    let good = frame(PING, 0, 0, &[0; 8]);
    let input = [good.clone(), frame(PUSH_PROMISE, 0, 1, &[]), good.clone()].concat();
    assert_eq!(rewriter.push(&input, &mut out), Err(Fault::PushPromise.into()));
    assert_eq!(rewriter.push(&good, &mut out), Err(Fault::PushPromise.into()));
    assert_eq!(rewriter.passthrough(), 0);
    assert_eq!(out, good, "what came before is whole");

    // An unfinished block is not kept either.
    let mut rewriter = started(tight());
    let input = [frame(HEADERS, 0, 1, &[0x83]), good].concat();
    assert!(rewriter.push(&input, &mut out).is_err());
    assert!(rewriter.block.is_none());
}
