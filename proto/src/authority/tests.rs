//! The rewriter against the bytes of grpc-go, against each fault that it refuses, and against
//! random clients. A new decoder reads each rewritten block, so no block depends on earlier ones.

use super::*;
use crate::hpack::testing::{Choice, Encoder, Literal, hex};

mod random;
mod refused;

const DATA: u8 = 0x0;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const SOCKET: &str = "/etc/kubernetes/konnectivity-server/konnectivity-server.socket";
const SOCKET_ENCODED: &str = "%2Fetc%2Fkubernetes%2Fkonnectivity-server%2Fkonnectivity-server.socket";

type Fields = Vec<(String, String, bool)>;

/// A frame as the server sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    Head { length: payload.len(), kind, flags, stream }.put(&mut out);
    out.extend_from_slice(payload);
    out.to_vec()
}

fn frames_of(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() {
        let Head { length, kind, flags, stream } = Head::parse(*head);
        let (payload, rest) = rest.split_at(length);
        frames.push(Frame { kind, flags, stream, payload: payload.to_vec() });
        bytes = rest;
    }
    assert!(bytes.is_empty(), "half a head at the end");
    frames
}

fn fields_of(block: &[u8]) -> Fields {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = Vec::new();
    Decoder::new()
        .decode(block, usize::MAX, |Field { name, value, sensitive }| {
            fields.push((text(name), text(value), sensitive));
        })
        .unwrap();
    fields
}

fn plain(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| ((*name).into(), (*value).into(), false)).collect()
}

fn block_of(encoder: &mut Encoder, fields: &[(&str, &str)], choice: Choice) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        encoder.field(name.as_bytes(), value.as_bytes(), choice, &mut block);
    }
    block
}

/// Tight enough to be reached, apart from what the protocol fixes.
fn tight() -> Limits {
    Limits { max_block: 1000, max_header_list: 4000, max_push_headers: 20_000, ..Limits::new(0) }
}

/// A rewriter behind the preface.
fn started(limits: Limits) -> Rewriter {
    let mut rewriter = Rewriter::within(limits);
    let mut out = BytesMut::new();
    rewriter.push(PREFACE, &mut out).unwrap();
    assert_eq!(out, PREFACE.as_slice());
    rewriter
}

fn rewrite_with(rewriter: &mut Rewriter, input: &[u8]) -> Result<Vec<Frame>, RewriteError> {
    let mut out = BytesMut::new();
    rewriter.push(input, &mut out)?;
    Ok(frames_of(&out))
}

fn rewrite(input: &[u8]) -> Result<Vec<Frame>, RewriteError> {
    rewrite_with(&mut started(tight()), input)
}

/// The one HEADERS frame that comes out for `input`: its flags and fields.
#[track_caller]
fn headers_for(rewriter: &mut Rewriter, input: &[u8]) -> (u8, Fields) {
    let frames = rewrite_with(rewriter, input).unwrap();
    let [headers] = frames.as_slice() else { panic!("not one frame: {frames:?}") };
    assert_eq!(headers.kind, HEADERS);
    (headers.flags, fields_of(&headers.payload))
}

mod grpc_go {
    use super::*;

    fn expected(user_agent: &str) -> Fields {
        plain(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/ProxyService/Proxy"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("user-agent", user_agent),
            ("te", "trailers"),
        ])
    }

    fn authority_in(block: &[u8]) -> String {
        let fields = fields_of(block);
        fields.iter().find(|(name, _, _)| name == ":authority").unwrap().1.clone()
    }

    /// Two streams of one connection as recorded from grpc-go: the first fills
    /// the dynamic table, the second only refers to it.
    #[track_caller]
    fn assert_connection(authority: &str, user_agent: &str, first: &str, second: &str) {
        let (first, second) = (hex(first), hex(second));
        assert_eq!(authority_in(&first), authority);
        let mut rewriter = Rewriter::new(0);
        let mut out = BytesMut::new();
        rewriter.push(&[PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[])].concat(), &mut out).unwrap();
        assert_eq!(out, [PREFACE.as_slice(), &frame(SETTINGS, 0, 0, &[])].concat());
        let expected = expected(user_agent);
        for (stream, block) in [(1, first), (3, second.clone()), (5, second)] {
            let input = frame(HEADERS, END_HEADERS, stream, &block);
            assert_eq!(headers_for(&mut rewriter, &input), (END_HEADERS, expected.clone()));
        }
    }

    #[test]
    fn v1_56_sends_the_path_as_it_is() {
        assert_connection(
            SOCKET,
            "grpc-go/1.56.3",
            "8386458f635d87f3eb716cee62158d761fcfaf41ac60a9231d6d8cb65454950c753d551489377327d2c82d9dcb631d\
             4f5545224ddcc9f4b20b6772d8ba0e4ea54f5f8b1d75d0620d263d4c4d65647a8b9acac8b4c7602bb6e2ecff400274\
             65864d833505b11f",
            "8386c2c1c0bfbe",
        );
    }

    #[test]
    fn v1_82_sends_the_path_percent_encoded() {
        assert_connection(
            SOCKET_ENCODED,
            "grpc-go/1.82.1",
            "8386458f635d87f3eb716cee62158d761fcfaf41b254584a922a2c3d6d8cb65454950a8b0f53d551489377327d2c82\
             d9dcb62a2c3d4f5545224ddcc9f4b20b6772d8ba0e4ea54f5f8b1d75d0620d263d4c4d65647a8a9acac8b4c7602bbc\
             25c340027465864d833505b11f",
            "8386c2c1c0bfbe",
        );
    }
}

mod semantics {
    use super::*;

    #[test]
    fn an_acceptable_authority_is_replaced_too() {
        let block = block_of(&mut Encoder::new(), &[(":authority", "example.com:443")], Choice::PLAIN);
        let (_, fields) = headers_for(&mut started(tight()), &frame(HEADERS, END_HEADERS, 1, &block));
        assert_eq!(fields, plain(&[(":authority", "localhost")]));
    }

    #[test]
    fn a_missing_authority_stays_away_and_several_stay_several() {
        let without = [(":method", "POST"), ("host", SOCKET)];
        let block = block_of(&mut Encoder::new(), &without, Choice::PLAIN);
        let (_, fields) = headers_for(&mut started(tight()), &frame(HEADERS, END_HEADERS, 1, &block));
        assert_eq!(fields, plain(&without));

        let twice = [(":authority", SOCKET), ("te", "trailers"), (":authority", "b")];
        let block = block_of(&mut Encoder::new(), &twice, Choice::PLAIN);
        let (_, fields) = headers_for(&mut started(tight()), &frame(HEADERS, END_HEADERS, 1, &block));
        assert_eq!(
            fields,
            plain(&[(":authority", "localhost"), ("te", "trailers"), (":authority", "localhost")])
        );
    }

    #[test]
    fn never_indexed_fields_stay_so() {
        let never = Choice { literal: Literal::Never, ..Choice::USUAL };
        let fields = [("authorization", "Bearer x"), (":authority", SOCKET), (":method", "POST")];
        let block = block_of(&mut Encoder::new(), &fields, never);
        let (_, fields) = headers_for(&mut started(tight()), &frame(HEADERS, END_HEADERS, 1, &block));
        assert!(fields.iter().all(|(_, _, sensitive)| *sensitive));
        assert_eq!(fields[1].1, "localhost");
    }

    /// Trailers carry table state like any other block, here for the request
    /// that follows.
    #[test]
    fn trailers_are_decoded_and_kept() {
        let (mut encoder, mut rewriter) = (Encoder::new(), started(tight()));
        let trailers = [("x-checksum", "abc"), ("x-other", "1")];
        let block = block_of(&mut encoder, &trailers, Choice::USUAL);
        let input = frame(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        assert_eq!(headers_for(&mut rewriter, &input), (END_HEADERS | END_STREAM, plain(&trailers)));

        let block = block_of(&mut encoder, &trailers, Choice::USUAL);
        assert_eq!(block, [0xbf, 0xbe]);
        let (_, fields) = headers_for(&mut rewriter, &frame(HEADERS, END_HEADERS, 3, &block));
        assert_eq!(fields, plain(&trailers));
    }

    #[test]
    fn padding_priority_and_unknown_flags_are_dropped() {
        let request = [(":method", "POST"), (":authority", SOCKET)];
        let block = block_of(&mut Encoder::new(), &request, Choice::PLAIN);
        let priority = [0x80, 0, 0, 3, 15];
        let padded = [&[4], block.as_slice(), &[0; 4]].concat();
        let weighted = [&priority, block.as_slice()].concat();
        let both = [&[4], priority.as_slice(), &block, &[0; 4]].concat();
        let cases =
            [(0x50, block), (PADDED, padded), (PRIORITY, weighted), (PADDED | PRIORITY | END_STREAM, both)];
        for (flags, payload) in cases {
            let input = frame(HEADERS, flags | END_HEADERS, 1, &payload);
            let (left, fields) = headers_for(&mut started(tight()), &input);
            assert_eq!(left, END_HEADERS | flags & END_STREAM);
            assert_eq!(fields, plain(&[(":method", "POST"), (":authority", "localhost")]));
        }
    }

    #[test]
    fn continuations_become_one_frame() {
        let request = [(":method", "POST"), (":authority", SOCKET), ("te", "trailers")];
        let block = block_of(&mut Encoder::new(), &request, Choice::USUAL);
        for cut in 0..=block.len() {
            let (start, end) = block.split_at(cut);
            let input = [
                // Padding is no part of the block, also when the block goes on.
                frame(HEADERS, END_STREAM | PADDED, 7, &[&[2], start, &[0; 2]].concat()),
                frame(CONTINUATION, 0, 7, &[]),
                // Flags that only HEADERS has mean nothing here.
                frame(CONTINUATION, END_HEADERS | PADDED | PRIORITY, 7, end),
            ];
            let (flags, fields) = headers_for(&mut started(tight()), &input.concat());
            assert_eq!(flags, END_STREAM | END_HEADERS);
            assert_eq!(
                fields,
                plain(&[(":method", "POST"), (":authority", "localhost"), ("te", "trailers")])
            );
        }
    }

    #[test]
    fn an_empty_block_stays_empty() {
        let input = [frame(HEADERS, END_STREAM, 1, &[]), frame(CONTINUATION, END_HEADERS, 1, &[])].concat();
        assert_eq!(headers_for(&mut started(tight()), &input), (END_STREAM | END_HEADERS, vec![]));
    }

    #[test]
    fn a_block_that_outgrows_a_frame_is_cut() {
        let value = "0".repeat(18_000);
        let fields = [(":authority", SOCKET), ("x", value.as_str()), ("y", "1")];
        let block = block_of(&mut Encoder::new(), &fields, Choice::USUAL);
        assert!(block.len() < 16_384, "fits in one frame with huffman coding");
        let input = frame(HEADERS, END_HEADERS | END_STREAM, 9, &block);
        let frames = rewrite_with(&mut started(Limits::new(0)), &input).unwrap();
        let shape: Vec<_> = frames.iter().map(|f| (f.kind, f.flags, f.stream)).collect();
        assert_eq!(shape, [(HEADERS, END_STREAM, 9), (CONTINUATION, END_HEADERS, 9)]);
        assert_eq!(frames[0].payload.len(), 16_384);
        let whole = [frames[0].payload.as_slice(), &frames[1].payload].concat();
        assert_eq!(fields_of(&whole), plain(&[(":authority", "localhost"), fields[1], fields[2]]));
    }

    #[test]
    fn other_frames_pass_as_they_are() {
        let input = [
            frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
            frame(SETTINGS, 1, 0, &[]),
            frame(PING, 0, 0, &[2, 4, 16, 16, 9, 14, 7, 7]),
            frame(DATA, 0, 1, &[b'x'; 16_384]),
            // The reserved bit and unknown types, flags and all.
            frame(0xfe, 0xff, 0x8000_0001, b"grease"),
            frame(DATA, END_STREAM, 1, &[]),
        ]
        .concat();
        let mut out = BytesMut::new();
        started(tight()).push(&input, &mut out).unwrap();
        assert_eq!(out, input);
    }
}

mod passthrough {
    use super::*;

    #[test]
    fn only_inside_of_frames_nobody_looks_at() {
        let mut rewriter = Rewriter::within(tight());
        let mut out = BytesMut::new();
        assert_eq!(rewriter.passthrough(), 0);
        rewriter.push(PREFACE, &mut out).unwrap();
        assert_eq!(rewriter.passthrough(), 0);

        out.clear();
        let data = frame(DATA, 0, 1, &[b'x'; 1000]);
        rewriter.push(&data[..8], &mut out).unwrap();
        assert_eq!((rewriter.passthrough(), out.len()), (0, 0));
        rewriter.push(&data[8..10], &mut out).unwrap();
        assert_eq!((rewriter.passthrough(), out.len()), (999, 10));
        rewriter.passed(0);
        rewriter.passed(900);
        rewriter.push(b"x", &mut out).unwrap();
        assert_eq!(rewriter.passthrough(), 98);
        rewriter.passed(98);
        assert_eq!(rewriter.passthrough(), 0);

        // Not inside of HEADERS, nor between them and their CONTINUATION.
        for part in [&frame(HEADERS, 0, 1, &[0x83])[..9], &[0x83], &frame(CONTINUATION, 4, 1, &[])] {
            rewriter.push(part, &mut out).unwrap();
            assert_eq!(rewriter.passthrough(), 0);
        }
        assert!(rewriter.block.is_none());
    }

    /// The buffer is filled by heads only, so it never grows.
    #[test]
    fn data_needs_no_memory() {
        let mut rewriter = started(tight());
        let mut out = BytesMut::with_capacity(HEAD_LEN);
        let (start, capacity) = (out.as_ptr(), out.capacity());
        let head = &frame(DATA, 0, 1, &[0; 16_384])[..HEAD_LEN];
        for _ in 0..1000 {
            rewriter.push(head, &mut out).unwrap();
            assert_eq!(out, head);
            out.clear();
            rewriter.passed(rewriter.passthrough());
        }
        assert_eq!((out.as_ptr(), out.capacity()), (start, capacity));
    }

    #[test]
    fn taking_too_much_is_found() {
        let mut out = BytesMut::new();
        let mut rewriter = started(tight());
        rewriter.passed(1);
        assert_eq!(rewriter.push(b"x", &mut out), Err(Fault::PassedTooMuch.into()));
        let mut rewriter = started(tight());
        rewriter.push(&frame(DATA, 0, 1, b"abc")[..10], &mut out).unwrap();
        rewriter.passed(3);
        assert_eq!(rewriter.passthrough(), 0);
        assert_eq!(rewriter.push(b"x", &mut out), Err(Fault::PassedTooMuch.into()));
    }
}
