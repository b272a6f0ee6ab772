//! Random clients, cut anywhere, against what they meant to say.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::hpack::testing::any_choice;

/// The next step of a random client.
#[derive(Debug, Clone)]
enum Action {
    Data(usize),
    Ping,
    Headers(Request),
}

#[derive(Debug, Clone)]
struct Request {
    fields: Vec<(usize, String, Choice)>,
    resizes: Vec<usize>,
    end_stream: bool,
    padding: Option<u8>,
    priority: bool,
    /// Lengths of the fragments, the last one apart.
    cuts: Vec<usize>,
}

const NAMES: [&str; 8] =
    [":authority", ":path", ":method", "te", "x-a", "x-b", "x-a-rather-long-name", "cookie"];

fn any_request() -> impl Strategy<Value = Request> {
    let value = prop_oneof![
        Just("POST".to_owned()),
        Just(SOCKET.to_owned()),
        Just(SOCKET_ENCODED.to_owned()),
        (0_usize..1500).prop_map(|length| "v".repeat(length)),
        vec(any::<char>(), 0..20).prop_map(String::from_iter),
    ];
    (
        vec((0..NAMES.len(), value, any_choice()), 0..10),
        vec(0_usize..=4096, 0..3),
        any::<bool>(),
        proptest::option::of(any::<u8>()),
        any::<bool>(),
        vec(0_usize..3000, 0..5),
    )
        .prop_map(|(fields, resizes, end_stream, padding, priority, cuts)| Request {
            fields,
            resizes,
            end_stream,
            padding,
            priority,
            cuts,
        })
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (0_usize..3000).prop_map(Action::Data),
        1 => Just(Action::Ping),
        4 => any_request().prop_map(Action::Headers),
    ]
}

impl Request {
    fn to_frames(&self, encoder: &mut Encoder, stream: u32) -> Vec<u8> {
        let mut block = Vec::new();
        for size in &self.resizes {
            encoder.resize(*size, &mut block);
        }
        for (name, value, choice) in &self.fields {
            encoder.field(NAMES[*name].as_bytes(), value.as_bytes(), *choice, &mut block);
        }
        let mut rest = block.as_slice();
        let mut parts: Vec<_> = self.cuts.iter().map(|length| take(&mut rest, *length)).collect();
        // The rest may be more than one frame can carry.
        parts.extend(rest.chunks(16_000));
        if parts.is_empty() {
            parts.push(&[]);
        }
        let last = parts.len() - 1;
        let frames = parts.iter().enumerate().map(|(at, part)| {
            let end = if at == last { END_HEADERS } else { 0 };
            if at > 0 {
                return frame(CONTINUATION, end, stream, part);
            }
            let mut flags = end | if self.end_stream { END_STREAM } else { 0 };
            let mut payload = Vec::new();
            if let Some(padding) = self.padding {
                flags |= PADDED;
                payload.push(padding);
            }
            if self.priority {
                flags |= PRIORITY;
                payload.extend([0, 0, 0, 0, 15]);
            }
            payload.extend_from_slice(part);
            payload.resize(payload.len() + usize::from(self.padding.unwrap_or(0)), 0);
            frame(HEADERS, flags, stream, &payload)
        });
        frames.collect::<Vec<_>>().concat()
    }

    fn expected(&self) -> Fields {
        let field = |(name, value, choice): &(usize, String, Choice)| {
            let value = if NAMES[*name] == ":authority" { "localhost" } else { value.as_str() };
            (NAMES[*name].to_owned(), value.to_owned(), choice.literal == Literal::Never)
        };
        self.fields.iter().map(field).collect()
    }
}

/// The server's input, with each header block in one piece.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Frame(Frame),
    Headers { stream: u32, end_stream: bool, fields: Fields },
}

fn seen_in(bytes: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut frames = frames_of(bytes).into_iter();
    while let Some(mut first) = frames.next() {
        assert!(first.payload.len() <= 16_384);
        if first.kind != HEADERS {
            seen.push(Seen::Frame(first));
            continue;
        }
        let mut is_end = first.flags & END_HEADERS != 0;
        while !is_end {
            let next = frames.next().unwrap();
            assert_eq!((next.kind, next.stream), (CONTINUATION, first.stream));
            first.payload.extend(next.payload);
            is_end = next.flags & END_HEADERS != 0;
        }
        let end_stream = first.flags & END_STREAM != 0;
        seen.push(Seen::Headers { stream: first.stream, end_stream, fields: fields_of(&first.payload) });
    }
    seen
}

/// Random cuts of the input, and at each whether to go round the rewriter.
fn feed(rewriter: &mut Rewriter, mut input: &[u8], cuts: &[(usize, bool)], out: &mut BytesMut) {
    let mut cuts = cuts.iter().cycle();
    while !input.is_empty() {
        let (length, go_round) = cuts.next().unwrap();
        let around = if *go_round { rewriter.passthrough() } else { 0 };
        if around > 0 {
            let part = take(&mut input, around.min(*length));
            out.extend_from_slice(part);
            rewriter.passed(part.len());
        } else {
            let part = take(&mut input, *length);
            rewriter.push(part, out).unwrap();
        }
    }
}

proptest! {
    #[test]
    fn only_the_authority_changes(
        actions in vec(any_action(), 1..12),
        cuts in vec((1_usize..2000, any::<bool>()), 1..20),
    ) {
        let mut encoder = Encoder::new();
        let (mut input, mut expected) = (PREFACE.to_vec(), Vec::new());
        for (stream, action) in (1_u32..).step_by(2).zip(&actions) {
            match action {
                Action::Data(length) => {
                    let payload = vec![b'd'; *length];
                    input.extend(frame(DATA, 0, stream, &payload));
                    expected.push(Seen::Frame(Frame { kind: DATA, flags: 0, stream, payload }));
                }
                Action::Ping => {
                    input.extend(frame(PING, 0, 0, &[7; 8]));
                    expected.push(Seen::Frame(Frame { kind: PING, flags: 0, stream: 0, payload: vec![7; 8] }));
                }
                Action::Headers(request) => {
                    input.extend(request.to_frames(&mut encoder, stream));
                    let (end_stream, fields) = (request.end_stream, request.expected());
                    expected.push(Seen::Headers { stream, end_stream, fields });
                }
            }
        }

        let mut at_once = BytesMut::new();
        Rewriter::new(0).push(&input, &mut at_once).unwrap();
        prop_assert!(at_once.starts_with(PREFACE));
        prop_assert_eq!(seen_in(&at_once[PREFACE.len()..]), expected);

        let (mut bytewise, mut one_by_one) = (Rewriter::new(0), BytesMut::new());
        for byte in &input {
            bytewise.push(&[*byte], &mut one_by_one).unwrap();
        }
        prop_assert_eq!(&one_by_one, &at_once);

        let mut in_pieces = BytesMut::new();
        feed(&mut Rewriter::new(0), &input, &cuts, &mut in_pieces);
        prop_assert_eq!(&in_pieces, &at_once);
    }

    /// Frames with random content: heads are right more often than not, so that
    /// the garbage gets as far as it can.
    #[test]
    fn garbage_stays_within_bounds(
        frames in vec(
            (
                prop_oneof![4 => Just(HEADERS), 2 => Just(CONTINUATION), 1 => any::<u8>()],
                any::<u8>(),
                prop_oneof![8 => Just(1_u32), 1 => any::<u32>()],
                prop_oneof![vec(any::<u8>(), 0..400), vec(0x80_u8..0xc0, 0..20)],
            ),
            1..20,
        ),
        noise in vec(any::<u8>(), 0..200),
        piece in 1_usize..600,
    ) {
        let mut input = Vec::new();
        for (kind, flags, stream, payload) in &frames {
            input.extend(frame(*kind, *flags, *stream, payload));
        }
        input.extend(noise);
        let limits = tight();
        let mut whole = (started(limits), BytesMut::new());
        let whole_result = whole.0.push(&input, &mut whole.1);

        let (mut rewriter, mut out) = (started(limits), BytesMut::new());
        let mut result = Ok(());
        for part in input.chunks(piece) {
            let before = out.len();
            result = rewriter.push(part, &mut out);
            // The head of a frame comes out with its last byte.
            prop_assert!(out.len() - before <= part.len() + HEAD_LEN + limits.max_push_headers);
            let held = rewriter.block.as_ref().map_or(0, |block| block.fragments.capacity());
            prop_assert!(held <= 2 * limits.max_block);
            if result.is_err() {
                break;
            }
        }
        if whole_result != Err(Fault::PushTooLarge { max: limits.max_push_headers }.into()) {
            prop_assert_eq!(result, whole_result);
            prop_assert_eq!(out, whole.1);
        }
    }

    #[test]
    fn noise_never_panics(noise in vec(any::<u8>(), 0..2000), has_preface in any::<bool>()) {
        let mut rewriter = if has_preface { started(tight()) } else { Rewriter::within(tight()) };
        let mut out = BytesMut::new();
        let _ = rewriter.push(&noise, &mut out);
        prop_assert!(out.len() <= noise.len() + tight().max_push_headers);
    }
}
