//! The decoder against the examples of RFC 7541 appendix C, against every kind of
//! malformed block, and against [`testing`], whose encoder makes all the choices
//! that there are.

use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{Choice, Encoder, Literal, any_choice, hex};
use super::*;

type Owned = (Vec<u8>, Vec<u8>, bool);

const NO_LIMIT: usize = usize::MAX;

fn decode_with(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Owned>, HpackError> {
    let mut fields = Vec::new();
    decoder.decode(block, NO_LIMIT, |field| {
        fields.push((field.name.to_vec(), field.value.to_vec(), field.sensitive));
    })?;
    Ok(fields)
}

fn decode(block: &[u8]) -> Result<Vec<Owned>, HpackError> {
    decode_with(&mut Decoder::new(), block)
}

/// Decodes the hex `block` and compares the fields and the table's size with
/// what the RFC says.
#[track_caller]
fn assert_example(decoder: &mut Decoder, block: &str, expected: &[(&str, &str)], table_size: usize) {
    let fields = decode_with(decoder, &hex(block)).unwrap();
    let fields: Vec<_> = fields
        .iter()
        .map(|(name, value, _)| (str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(fields, expected);
    assert_eq!(decoder.table.used(), table_size);
}

mod rfc_examples {
    use super::*;

    #[test]
    fn c1_integers() {
        for (value, prefix, octets) in [(10, 5, "0a"), (1337, 5, "1f9a0a"), (42, 8, "2a")] {
            let mut out = Vec::new();
            put_integer(value, prefix, 0, &mut out);
            assert_eq!(out, hex(octets));
            assert_eq!(Input { rest: &out }.integer(prefix), Ok(value));
        }
    }

    #[test]
    fn c2_single_fields() {
        let new = || Decoder::new();
        let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        assert_example(&mut new(), custom, &[("custom-key", "custom-header")], 55);
        let path = "040c 2f73 616d 706c 652f 7061 7468";
        assert_example(&mut new(), path, &[(":path", "/sample/path")], 0);
        let password = "1008 7061 7373 776f 7264 0673 6563 7265 74";
        assert_example(&mut new(), password, &[("password", "secret")], 0);
        assert_eq!(decode(&hex(password)), Ok(vec![(b"password".to_vec(), b"secret".to_vec(), true)]));
        assert_example(&mut new(), "82", &[(":method", "GET")], 0);
    }

    /// The requests of C.3 and C.4, which differ in Huffman coding only.
    fn assert_requests(blocks: [&str; 3]) {
        let mut decoder = Decoder::new();
        let [first, second, third] = blocks;
        let authority = (":authority", "www.example.com");
        let start = [(":method", "GET"), (":scheme", "http"), (":path", "/"), authority];
        assert_example(&mut decoder, first, &start, 57);
        let cached = [start.as_slice(), &[("cache-control", "no-cache")]].concat();
        assert_example(&mut decoder, second, &cached, 110);
        let custom = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            ("custom-key", "custom-value"),
        ];
        assert_example(&mut decoder, third, &custom, 164);
    }

    #[test]
    fn c3_requests_without_huffman() {
        assert_requests([
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ]);
    }

    #[test]
    fn c4_requests_with_huffman() {
        assert_requests([
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ]);
    }

    /// The responses of C.5 and C.6, in a table of 256 bytes, so with evictions.
    fn assert_responses(blocks: [&str; 3]) {
        let mut decoder = Decoder::new();
        decoder.table.resize(256).unwrap();
        let [first, second, third] = blocks;
        let fields = |status, date| {
            [
                (":status", status),
                ("cache-control", "private"),
                ("date", date),
                ("location", "https://www.example.com"),
            ]
        };
        let date = "Mon, 21 Oct 2013 20:13:21 GMT";
        assert_example(&mut decoder, first, &fields("302", date), 222);
        assert_example(&mut decoder, second, &fields("307", date), 222);
        let later = [
            fields("200", "Mon, 21 Oct 2013 20:13:22 GMT").as_slice(),
            &[
                ("content-encoding", "gzip"),
                ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
            ],
        ]
        .concat();
        assert_example(&mut decoder, third, &later, 215);
    }

    #[test]
    fn c5_responses_without_huffman() {
        assert_responses([
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
             3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 \
             677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 \
             553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
        ]);
    }

    #[test]
    fn c6_responses_with_huffman() {
        assert_responses([
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e \
             919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 \
             821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed \
             4ee5 b106 3d50 07",
        ]);
    }

    /// A few codes of appendix B from both ends of the table.
    #[test]
    fn appendix_b() {
        for (symbol, code) in [
            (b"0" as &[u8], "07"),
            (b"a", "1f"),
            (b"/", "63"),
            (b"z", "f7"),
            (b"Z", "fd"),
            (b"\\", "fffe1f"),
            (b"\xff", "fffffbbf"),
            (b"\x16", "fffffffb"),
            (b"\n", "fffffff3"),
        ] {
            assert_eq!(testing::huffman(symbol), hex(code), "{symbol:?}");
        }
    }
}

mod malformed {
    use super::*;

    #[test]
    fn every_prefix_of_a_block_is_truncated() {
        let mut block = Vec::new();
        let choice = Choice { index_name: false, ..Choice::USUAL };
        Encoder::new().field(b"some-name", &[b'x'; 300], choice, &mut block);
        for end in 1..block.len() {
            assert_eq!(decode(&block[..end]), Err(HpackError::Truncated), "{end} bytes");
        }
    }

    #[test]
    fn integers_that_do_not_fit() {
        // The largest that does, then one more, then a sixth octet, then zeros.
        assert_eq!(
            decode(&hex("ff 80ffffff0f")),
            Err(HpackError::IndexOutOfRange { index: u32::MAX as usize })
        );
        for block in [
            "ff 81ffffff0f",
            "ff ffffffff7f",
            "ff ffffffffff00",
            "ff 808080808000",
            "ff ffffffffffffffffff01",
        ] {
            assert_eq!(decode(&hex(block)), Err(HpackError::IntegerOverflow), "{block}");
        }
        // The same as the length of a string.
        assert_eq!(decode(&hex("007f 81ffffff0f")), Err(HpackError::IntegerOverflow));
        assert_eq!(decode(&hex("007f 80ffffff0f")), Err(HpackError::Truncated));
    }

    #[test]
    fn indexes_beyond_the_tables() {
        assert_eq!(decode(&hex("80")), Err(HpackError::IndexOutOfRange { index: 0 }));
        assert_eq!(decode(&hex("be")), Err(HpackError::IndexOutOfRange { index: 62 }));
        assert_eq!(decode(&hex("7e00")), Err(HpackError::IndexOutOfRange { index: 62 }));
        // One entry is there, two are not.
        assert_eq!(decode(&hex("4001 61 01 62 be")).map(|fields| fields.len()), Ok(2));
        assert_eq!(decode(&hex("4001 61 01 62 bf")), Err(HpackError::IndexOutOfRange { index: 63 }));
        // Gone after an eviction: to 0 bytes, and back to 4,096.
        let mut decoder = Decoder::new();
        decode_with(&mut decoder, &hex("4001 61 01 62")).unwrap();
        let resized = decode_with(&mut decoder, &hex("20 3fe11f be"));
        assert_eq!(resized, Err(HpackError::IndexOutOfRange { index: 62 }));
    }

    #[test]
    fn size_updates() {
        assert_eq!(decode(&hex("3fe11f 82")).map(|fields| fields.len()), Ok(1));
        assert_eq!(decode(&hex("20 3fe11f")), Ok(vec![]));
        assert_eq!(decode(&hex("3fe21f 82")), Err(HpackError::SizeUpdateTooLarge { size: 4097, max: 4096 }));
        assert_eq!(decode(&hex("82 20")), Err(HpackError::LateSizeUpdate));
        assert_eq!(decode(&hex("4001 61 01 62 3fe11f")), Err(HpackError::LateSizeUpdate));
    }

    #[test]
    fn huffman_strings() {
        let string = |code: &str| {
            let code = hex(code);
            let mut block = vec![0x00, 0x01, b'a', 0x80 | code.len() as u8];
            block.extend(code);
            decode(&block).map(|fields| fields[0].1.clone())
        };
        assert_eq!(string(""), Ok(vec![]));
        assert_eq!(string("07"), Ok(b"0".to_vec()));
        // Padding of zeros, of eight ones, of an octet more, half a code.
        for code in ["00 00", "06", "ff", "07 ff", "fffe", "fffffe", "fffffffa"] {
            assert_eq!(string(code), Err(HpackError::HuffmanPadding), "{code}");
        }
        // Thirty ones, alone and behind a symbol; padding as long as that is one too.
        for code in ["ffffffff", "fffffffc", "07 ffffffff", "003fffffff", "ffffffffffffffff"] {
            assert_eq!(string(code), Err(HpackError::HuffmanEos), "{code}");
        }
    }

    #[test]
    fn a_list_over_the_bound() {
        // ":method: GET" counts 7 + 3 + 32 bytes.
        let block = hex("82 82");
        let mut seen = 0;
        assert_eq!(Decoder::new().decode(&block, 84, |_| seen += 1), Ok(()));
        assert_eq!(seen, 2);
        let over = Decoder::new().decode(&block, 83, |_| seen += 1);
        assert_eq!(over, Err(HpackError::ListTooLarge { max: 83 }));
        assert_eq!(seen, 3, "stops before the field that is too much");
    }
}

#[test]
fn the_name_of_an_entry_that_its_use_evicts() {
    let mut decoder = Decoder::new();
    let (mut encoder, mut block) = (Encoder::new(), Vec::new());
    encoder.field(b"long", &[b'x'; 4000], Choice::USUAL, &mut block);
    encoder.field(b"long", &[b'y'; 4000], Choice::USUAL, &mut block);
    // Too large for the table, so it empties it.
    encoder.field(b"long", &[b'z'; 5000], Choice::USUAL, &mut block);
    let fields = decode_with(&mut decoder, &block).unwrap();
    assert!(fields.iter().all(|(name, _, _)| name == b"long"));
    assert_eq!((decoder.table.used(), decoder.table.len()), (0, 0));
}

#[test]
fn an_entry_as_large_as_the_table_is_kept() {
    for (length, entries) in [(4096 - ENTRY_OVERHEAD - 1, 1), (4096 - ENTRY_OVERHEAD, 0)] {
        let mut decoder = Decoder::new();
        let mut block = Vec::new();
        Encoder::new().field(b"x", &vec![b'x'; length], Choice::USUAL, &mut block);
        decode_with(&mut decoder, &block).unwrap();
        assert_eq!(decoder.table.len(), entries);
    }
}

#[test]
fn encoded_fields_leave_no_trace_in_the_reader() {
    let mut out = Vec::new();
    let field = |name, value, sensitive| Field { name, value, sensitive };
    encode(field(b":method", b"POST", false), &mut out);
    encode(field(b":method", b"POST", true), &mut out);
    encode(field(b":authority", b"localhost", false), &mut out);
    encode(field(b"te", b"trailers", false), &mut out);
    let expected = "00 07 3a6d6574686f64 04 504f5354 10 07 3a6d6574686f64 04 504f5354 \
                    00 0a 3a617574686f72697479 09 6c6f63616c686f7374 00 02 7465 08 747261696c657273";
    assert_eq!(out, hex(expected));
    let mut reader = Decoder::new();
    assert_eq!(decode_with(&mut reader, &out).unwrap().len(), 4);
    assert_eq!(reader.table.len(), 0);
}

proptest! {
    #[test]
    fn huffman_round_trip(text in vec(any::<u8>(), 0..200)) {
        let mut decoded = Vec::new();
        huffman::decode(&testing::huffman(&text), &mut decoded).unwrap();
        prop_assert_eq!(decoded, text);
    }

    #[test]
    fn integer_round_trip(value in any::<u32>(), prefix in 1_u32..=8) {
        let mut out = Vec::new();
        put_integer(value as usize, prefix, 0, &mut out);
        let mut input = Input { rest: &out };
        prop_assert_eq!(input.integer(prefix), Ok(value as usize));
        prop_assert!(input.rest.is_empty());
    }

    #[test]
    fn our_own_encoding_round_trip(
        fields in vec((vec(any::<u8>(), 0..40), vec(any::<u8>(), 0..300), any::<bool>()), 0..20),
    ) {
        let mut out = Vec::new();
        for (name, value, sensitive) in &fields {
            encode(Field { name, value, sensitive: *sensitive }, &mut out);
        }
        prop_assert_eq!(decode(&out).unwrap(), fields);
    }

    /// Few names and values, so that references are frequent, and a small table,
    /// so that evictions are.
    #[test]
    fn the_table_follows_the_encoders(
        blocks in vec(
            (proptest::option::of(0_usize..300), vec((0_usize..6, 0_usize..60, any_choice()), 0..12)),
            1..12,
        ),
    ) {
        let names: [&[u8]; 6] = [b":path", b"te", b"x-one", b"x-two", b":authority", b""];
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (resize, fields) in blocks {
            let (mut block, mut expected) = (Vec::new(), Vec::new());
            if let Some(size) = resize {
                encoder.resize(size, &mut block);
            }
            for (name, length, choice) in fields {
                let value = vec![b'v'; length];
                encoder.field(names[name], &value, choice, &mut block);
                expected.push((names[name].to_vec(), value, choice.literal == Literal::Never));
            }
            prop_assert_eq!(decode_with(&mut decoder, &block).unwrap(), expected);
            prop_assert!(decoder.table.used() <= 4096);
        }
    }

    #[test]
    fn garbage_never_panics_and_stays_within_bounds(blocks in vec(vec(any::<u8>(), 0..200), 1..8)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            let mut emitted = 0;
            let result = decoder.decode(&block, 1000, |field| {
                emitted += field.name.len() + field.value.len() + ENTRY_OVERHEAD;
            });
            prop_assert!(emitted <= 1000);
            prop_assert!(decoder.table.used() <= 4096 && decoder.table.len() <= 4096 / ENTRY_OVERHEAD);
            if result.is_err() {
                break;
            }
        }
    }
}
