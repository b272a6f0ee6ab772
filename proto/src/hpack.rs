//! HPACK (RFC 7541): a whole decoder, and an encoder that never indexes.
//!
//! Owns the compression state of one direction of one HTTP/2 connection. Promises:
//! every malformed block is a typed [`HpackError`], never a panic; the dynamic
//! table stays within the announced size; decoding stops when the header list is
//! over the caller's limit, so references to one large entry cannot become
//! megabytes.
//!
//! Does not: read frames, or judge names and values, which the HTTP/2
//! implementation behind does.

mod error;
mod huffman;
mod table;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use error::HpackError;
use table::{DynamicTable, ENTRY_OVERHEAD, Entry};

/// Most continuation octets of an integer (RFC 7541 section 5.1): a `u32` needs
/// five. More could be zeros without an end.
const MAX_INTEGER_OCTETS: usize = 5;

/// One header field, borrowed from the block or from a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// The name, any octets.
    pub(crate) name: &'a [u8],
    /// The value, any octets.
    pub(crate) value: &'a [u8],
    /// Sent as "never indexed", which holds when the field is encoded again
    /// (RFC 7541 section 6.2.3).
    pub(crate) sensitive: bool,
}

/// The indexing of a literal field by its reader (RFC 7541 section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indexing {
    Incremental,
    Without,
    Never,
}

/// The decoder of one direction of one connection. Holds at most the dynamic
/// table; the 32 bytes counted for each entry cover its overhead.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: DynamicTable,
}

impl Decoder {
    /// The decoder of a new connection.
    pub(crate) const fn new() -> Self {
        Self { table: DynamicTable::new() }
    }

    /// Decodes one whole block and gives its fields to `emit`, in order, up to
    /// `max_list` bytes by the count of RFC 9113 section 6.5.2.
    ///
    /// # Errors
    /// When the block is malformed or too large. The decoder must not be used any
    /// more, since the rest of the block did not reach its table.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        max_list: usize,
        emit: impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let mut input = Input { rest: block };
        let mut list = List { left: max_list, max: max_list, emit };
        let mut may_resize = true;
        while let Some(first) = input.rest.first() {
            // The first octet selects the representation (RFC 7541 section 6).
            match first {
                0x80.. => {
                    let (name, value) = self.table.get(input.integer(7)?)?;
                    list.push(Field { name, value, sensitive: false })?;
                }
                0x40..0x80 => self.literal(&mut input, 6, Indexing::Incremental, &mut list)?,
                0x20..0x40 if may_resize => {
                    self.table.resize(input.integer(5)?)?;
                    continue;
                }
                0x20..0x40 => return Err(HpackError::LateSizeUpdate),
                0x10..0x20 => self.literal(&mut input, 4, Indexing::Never, &mut list)?,
                0x00..0x10 => self.literal(&mut input, 4, Indexing::Without, &mut list)?,
            }
            may_resize = false;
        }
        Ok(())
    }

    /// A literal field (RFC 7541 section 6.2). The table takes it last, because the
    /// name may be of an entry which the insertion evicts (section 4.4).
    fn literal(
        &mut self,
        input: &mut Input<'_>,
        prefix: u32,
        indexing: Indexing,
        list: &mut List<impl FnMut(Field<'_>)>,
    ) -> Result<(), HpackError> {
        let (mut name_text, mut value_text) = (Vec::new(), Vec::new());
        let name = match input.integer(prefix)? {
            0 => input.string(&mut name_text)?,
            index => self.table.get(index)?.0,
        };
        let value = input.string(&mut value_text)?;
        list.push(Field { name, value, sensitive: indexing == Indexing::Never })?;
        if indexing == Indexing::Incremental {
            let entry = Entry::new(name, value);
            self.table.insert(entry);
        }
        Ok(())
    }
}

/// The header list of one block, with its limit.
struct List<F> {
    left: usize,
    max: usize,
    emit: F,
}

impl<F: FnMut(Field<'_>)> List<F> {
    fn push(&mut self, field: Field<'_>) -> Result<(), HpackError> {
        let size = field.name.len() + field.value.len() + ENTRY_OVERHEAD;
        self.left = self.left.checked_sub(size).ok_or(HpackError::ListTooLarge { max: self.max })?;
        (self.emit)(field);
        Ok(())
    }
}

/// The unread part of a block.
struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// An integer with a prefix of `prefix` bits (RFC 7541 section 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let full = (1_u64 << prefix) - 1;
        let mut value = u64::from(self.octet()?) & full;
        let mut goes_on = value == full;
        for shift in (0..).step_by(7).take(MAX_INTEGER_OCTETS) {
            if !goes_on {
                break;
            }
            let octet = self.octet()?;
            value += u64::from(octet & 0x7f) << shift;
            goes_on = octet & 0x80 != 0;
        }
        let value = u32::try_from(value).ok().filter(|_| !goes_on);
        value.and_then(|value| usize::try_from(value).ok()).ok_or(HpackError::IntegerOverflow)
    }

    /// A string (RFC 7541 section 5.2), borrowed from the block if it is plain. A
    /// Huffman string is decoded into `text`.
    fn string<'s>(&mut self, text: &'s mut Vec<u8>) -> Result<&'s [u8], HpackError>
    where
        'b: 's,
    {
        let is_huffman = self.rest.first().is_some_and(|first| first & 0x80 != 0);
        let length = self.integer(7)?;
        let (raw, rest) = self.rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
        self.rest = rest;
        if !is_huffman {
            return Ok(raw);
        }
        huffman::decode(raw, text)?;
        Ok(text)
    }
}

/// Appends one field as a literal that leaves the reader's dynamic table alone,
/// without references and without Huffman coding (RFC 7541 sections 6.2.2 and 6.2.3).
pub(crate) fn encode(field: Field<'_>, out: &mut Vec<u8>) {
    out.push(if field.sensitive { 0x10 } else { 0x00 });
    put_string(field.name, out);
    put_string(field.value, out);
}

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    put_integer(text.len(), 7, 0x00, out);
    out.extend_from_slice(text);
}

/// Appends an integer (RFC 7541 section 5.1) with `high` above its prefix of
/// `prefix` bits.
fn put_integer(value: usize, prefix: u32, high: u8, out: &mut Vec<u8>) {
    let full = (1_usize << prefix) - 1;
    if value < full {
        out.push(high | value as u8);
        return;
    }
    out.push(high | full as u8);
    let mut left = value - full;
    while left >= 0x80 {
        out.push(0x80 | (left & 0x7f) as u8);
        left >>= 7;
    }
    out.push(left as u8);
}
