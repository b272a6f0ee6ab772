//! An HPACK encoder for tests, with every choice that an encoder has.

use proptest::prelude::*;

use super::{huffman, put_integer, table};

/// The representation of a literal field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Literal {
    Incremental,
    Without,
    Never,
}

/// The choices for one field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) literal: Literal,
    /// Use an index for the whole field if there is one.
    pub(crate) index_field: bool,
    /// Use an index for the name if there is one.
    pub(crate) index_name: bool,
    pub(crate) huffman: bool,
}

impl Choice {
    /// The choices of grpc-go.
    pub(crate) const USUAL: Self =
        Self { literal: Literal::Incremental, index_field: true, index_name: true, huffman: true };
    /// No reference to anything.
    pub(crate) const PLAIN: Self =
        Self { literal: Literal::Without, index_field: false, index_name: false, huffman: false };
}

/// Keeps its own dynamic table, written as plainly as possible.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    /// The newest entry first.
    dynamic: Vec<(Vec<u8>, Vec<u8>)>,
    size: usize,
}

impl Encoder {
    pub(crate) const fn new() -> Self {
        Self { dynamic: Vec::new(), size: 4096 }
    }

    pub(crate) fn resize(&mut self, size: usize, out: &mut Vec<u8>) {
        put_integer(size, 5, 0x20, out);
        self.size = size;
        self.evict();
    }

    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], choice: Choice, out: &mut Vec<u8>) {
        let named = || (1..).zip(&table::STATIC).filter(|(_, known)| known.0.as_bytes() == name);
        let static_field = named().find(|(_, known)| known.1.as_bytes() == value).map(|(index, _)| index);
        let static_name = named().next().map(|(index, _)| index);
        let dynamic = |whole: bool| {
            let same = |entry: &(Vec<u8>, Vec<u8>)| entry.0 == name && (!whole || entry.1 == value);
            self.dynamic.iter().position(same).map(|at| at + 62)
        };
        let field = static_field.or_else(|| dynamic(true)).filter(|_| choice.index_field);
        if let (Some(index), true) = (field, choice.literal != Literal::Never) {
            return put_integer(index, 7, 0x80, out);
        }
        let index = dynamic(false).or(static_name).filter(|_| choice.index_name).unwrap_or(0);
        match choice.literal {
            Literal::Incremental => put_integer(index, 6, 0x40, out),
            Literal::Without => put_integer(index, 4, 0x00, out),
            Literal::Never => put_integer(index, 4, 0x10, out),
        }
        if index == 0 {
            string(name, choice.huffman, out);
        }
        string(value, choice.huffman, out);
        if choice.literal == Literal::Incremental {
            self.dynamic.insert(0, (name.to_vec(), value.to_vec()));
            self.evict();
        }
    }

    fn evict(&mut self) {
        let mut room = self.size;
        let fits = self.dynamic.iter().position(|(name, value)| {
            let size = name.len() + value.len() + 32;
            let too_large = size > room;
            room = room.saturating_sub(size);
            too_large
        });
        self.dynamic.truncate(fits.unwrap_or(self.dynamic.len()));
    }
}

/// Huffman where shorter, as all encoders do.
fn string(text: &[u8], may_huffman: bool, out: &mut Vec<u8>) {
    let code = huffman(text);
    if may_huffman && code.len() < text.len() {
        put_integer(code.len(), 7, 0x80, out);
        out.extend_from_slice(&code);
    } else {
        put_integer(text.len(), 7, 0x00, out);
        out.extend_from_slice(text);
    }
}

pub(crate) fn huffman(text: &[u8]) -> Vec<u8> {
    let mut bits = Vec::new();
    for symbol in text {
        let (code, length) = code_of(*symbol);
        bits.extend((0..length).rev().map(|at| code >> at & 1 == 1));
    }
    bits.resize(bits.len().next_multiple_of(8), true);
    bits.chunks(8).map(|octet| octet.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))).collect()
}

fn code_of(symbol: u8) -> (u64, u32) {
    let places = huffman::ROWS.iter().filter_map(|row| {
        let at = row.symbols.iter().position(|other| *other == symbol)?;
        Some((row.first + at as u64, row.bits))
    });
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), 1, "symbol {symbol} has {places:?}");
    places[0]
}

/// Choices in which the dynamic table is filled often.
pub(crate) fn any_choice() -> impl Strategy<Value = Choice> {
    let literal = prop_oneof![
        3 => Just(Literal::Incremental),
        1 => Just(Literal::Without),
        1 => Just(Literal::Never)
    ];
    (literal, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(literal, index_field, index_name, huffman)| Choice { literal, index_field, index_name, huffman },
    )
}

/// The octets written in `text`, whatever stands between the digits.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
