//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive numbers in the order
//! of their symbols, and the first code of a length follows from the last code of
//! the length before. So the symbols by length are the whole table, and the codes
//! are computed at compile time.

use super::error::HpackError;

/// All symbols, in the order of their codes, by the length of the codes in bits.
const SYMBOLS: [(u32, &[u8]); 21] = [
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\0$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, &[92, 195, 208]),
    (20, &[128, 130, 131, 162, 184, 194, 224, 226]),
    (21, &[153, 161, 167, 172, 176, 177, 179, 209, 216, 217, 227, 229, 230]),
    (
        22,
        &[
            129, 132, 133, 134, 136, 146, 154, 156, 160, 163, 164, 169, 170, 173, 178, 181, 185, 186, 187,
            189, 190, 196, 198, 228, 232, 233,
        ],
    ),
    (
        23,
        &[
            1, 135, 137, 138, 139, 140, 141, 143, 147, 149, 150, 151, 152, 155, 157, 158, 165, 166, 168, 174,
            175, 180, 182, 183, 188, 191, 197, 231, 239,
        ],
    ),
    (24, &[9, 142, 144, 145, 148, 159, 171, 206, 215, 225, 236, 237]),
    (25, &[199, 207, 234, 235]),
    (26, &[192, 193, 200, 201, 202, 205, 210, 213, 218, 219, 238, 240, 242, 243, 255]),
    (27, &[203, 204, 211, 212, 214, 221, 222, 223, 241, 244, 245, 246, 247, 248, 250, 251, 252, 253, 254]),
    (
        28,
        &[
            2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 30, 31,
            127, 220, 249,
        ],
    ),
    (30, &[10, 13, 22]),
];

/// The codes of one length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Length of each code in bits.
    pub(super) bits: u32,
    /// The smallest code.
    pub(super) first: u64,
    /// The symbols of the codes `first`, `first + 1`, and so on.
    pub(super) symbols: &'static [u8],
}

/// [`SYMBOLS`] with their codes. The code behind the last row, thirty one bits, is
/// the end-of-string symbol.
pub(super) const ROWS: [Row; SYMBOLS.len()] = rows();

const fn rows() -> [Row; SYMBOLS.len()] {
    let mut rows = [Row { bits: 0, first: 0, symbols: &[] }; SYMBOLS.len()];
    let (mut next_code, mut next_bits) = (0_u64, 0);
    let mut at = 0;
    while at < SYMBOLS.len() {
        let (bits, symbols) = SYMBOLS[at];
        let first = next_code << (bits - next_bits);
        rows[at] = Row { bits, first, symbols };
        next_code = first + symbols.len() as u64;
        next_bits = bits;
        at += 1;
    }
    // One code is left, for the end of string.
    assert!(next_bits == 30 && next_code == (1 << 30) - 1);
    rows
}

/// Shortest code, in bits: a text is at most `8 / SHORTEST` times as long as its
/// code.
const SHORTEST: usize = 5;
/// Longest code, in bits.
const LONGEST: u32 = 30;

/// Appends the text of a Huffman string to `text`, at most 1.6 times the length
/// of `code`.
///
/// # Errors
/// [`HpackError::HuffmanEos`] and [`HpackError::HuffmanPadding`].
pub(super) fn decode(code: &[u8], text: &mut Vec<u8>) -> Result<(), HpackError> {
    text.reserve_exact(code.len() * 8 / SHORTEST);
    let mut octets = code.iter();
    // The next `held` bits at the top of the word, above zeros.
    let (mut window, mut held) = (0_u64, 0_u32);
    loop {
        while held <= 56
            && let Some(octet) = octets.next()
        {
            window |= u64::from(*octet) << (56 - held);
            held += 8;
        }
        let Some((symbol, bits)) = leading_symbol(window, held) else { break };
        text.push(symbol);
        window <<= bits;
        held -= bits;
    }
    if held >= LONGEST {
        return Err(HpackError::HuffmanEos);
    }
    // At most seven one bits.
    let is_padding = held < 8 && window.leading_ones() == held;
    if is_padding { Ok(()) } else { Err(HpackError::HuffmanPadding) }
}

/// The first symbol in the top `held` bits of `window` and the length of its code
/// in bits, if a whole code is there.
fn leading_symbol(window: u64, held: u32) -> Option<(u8, u32)> {
    for row in ROWS.iter().take_while(|row| row.bits <= held) {
        // Never below `first`: smaller codes belong to earlier rows.
        let offset = (window >> (64 - row.bits)).saturating_sub(row.first);
        let symbol = usize::try_from(offset).ok().and_then(|offset| row.symbols.get(offset));
        if let Some(symbol) = symbol {
            return Some((*symbol, row.bits));
        }
    }
    None
}
