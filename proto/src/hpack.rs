//! HPACK (RFC 7541): a whole decoder, and an encoder that never indexes.
//!
//! Owns the compression state of one direction of one HTTP/2 connection.
//! Promises: every malformed block is a typed [`HpackError`], never a panic; the
//! dynamic table stays within the size we announced; and decoding stops as soon
//! as the header list grows over the caller's bound, so a few bytes that refer
//! to one large table entry again and again cannot become megabytes.
//!
//! Does not: read frames, or judge names and values. An upper-case name or a
//! second `:path` is a well-formed HPACK field, and refusing it is the business
//! of the HTTP/2 implementation behind.

mod huffman;
mod table;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use table::{DynamicTable, Entry};

/// What an entry costs on top of the octets of its name and value
/// (RFC 7541 section 4.1; RFC 9113 section 6.5.2 counts header lists alike).
const ENTRY_OVERHEAD: usize = 32;

/// Most continuation octets of an integer (RFC 7541 section 5.1) that are read:
/// as many as a `u32` needs.
const MAX_INTEGER_OCTETS: u32 = 5;

/// Why a header block cannot be decoded. The connection is then of no use: its
/// compression state is lost (RFC 9113 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends inside a field.
    #[error("header block ends inside a field")]
    Truncated,
    /// An integer does not fit in 32 bits (RFC 7541 section 5.1).
    #[error("integer in a header block does not fit in 32 bits")]
    IntegerOverflow,
    /// An index of 0 or beyond both tables (RFC 7541 section 2.3.3).
    #[error("index {index} is in neither header table")]
    IndexOutOfRange {
        /// The index as sent.
        index: usize,
    },
    /// A change of the table's size behind a field (RFC 7541 section 4.2).
    #[error("table size update behind the first field of a block")]
    LateSizeUpdate,
    /// A table size above the one we announced (RFC 7541 section 6.3).
    #[error("table size update to {size} bytes is over the announced {max}")]
    SizeUpdateTooLarge {
        /// Requested size in bytes.
        size: usize,
        /// Announced size in bytes.
        max: usize,
    },
    /// A Huffman string that ends in anything but at most seven one bits
    /// (RFC 7541 section 5.2).
    #[error("huffman string with bad padding")]
    HuffmanPadding,
    /// A Huffman string that contains the end-of-string symbol
    /// (RFC 7541 section 5.2).
    #[error("huffman string with an end-of-string symbol inside")]
    HuffmanEos,
    /// The decoded fields are larger than the caller accepts.
    #[error("decoded header list is over the limit of {max} bytes")]
    ListTooLarge {
        /// The limit in bytes, counted as in RFC 9113 section 6.5.2.
        max: usize,
    },
}

/// One header field, borrowed from the block or from a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    /// The name, any octets.
    pub(crate) name: &'a [u8],
    /// The value, any octets.
    pub(crate) value: &'a [u8],
    /// Sent as "never indexed": whoever encodes the field again must do the
    /// same (RFC 7541 section 6.2.3).
    pub(crate) sensitive: bool,
}

/// The first octet of a representation tells which one it is
/// (RFC 7541 section 6).
#[derive(Debug, Clone, Copy)]
enum Representation {
    Indexed,
    Literal { prefix: u32, indexing: Indexing },
    SizeUpdate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indexing {
    Incremental,
    Without,
    Never,
}

impl Representation {
    const fn of(first: u8) -> Self {
        match first {
            0x80.. => Self::Indexed,
            0x40..0x80 => Self::Literal { prefix: 6, indexing: Indexing::Incremental },
            0x20..0x40 => Self::SizeUpdate,
            0x10..0x20 => Self::Literal { prefix: 4, indexing: Indexing::Never },
            0x00..0x10 => Self::Literal { prefix: 4, indexing: Indexing::Without },
        }
    }
}

/// The decoder of one direction of one connection.
///
/// Holds at most the dynamic table: its accounted size is bounded by the larger
/// of 4,096 and the announced size, and the 32 bytes that are accounted for each
/// entry cover what an entry costs beside its text.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: DynamicTable,
    /// The most a size update may ask for, in bytes.
    announced: usize,
}

impl Decoder {
    /// `announced` is our SETTINGS_HEADER_TABLE_SIZE in bytes.
    pub(crate) const fn new(announced: usize) -> Self {
        Self { table: DynamicTable::new(), announced }
    }

    /// Decodes one whole block and gives its fields to `emit`, in order. The
    /// fields given are never more than `max_list` bytes, counted as in RFC 9113
    /// section 6.5.2.
    ///
    /// # Errors
    /// When the block is malformed or too large. The decoder must not be used
    /// any more, since the rest of the block did not reach its table.
    pub(crate) fn decode(
        &mut self,
        block: &[u8],
        max_list: usize,
        mut emit: impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let mut input = Input { rest: block };
        let mut list = ListBudget { left: max_list, max: max_list };
        let mut may_resize = true;
        while let Some(first) = input.rest.first() {
            let representation = Representation::of(*first);
            match representation {
                Representation::SizeUpdate => {
                    if !may_resize {
                        return Err(HpackError::LateSizeUpdate);
                    }
                    self.resize(input.integer(5)?)?;
                    continue;
                }
                Representation::Indexed => {
                    let (name, value) = self.table.get(input.integer(7)?)?;
                    list.charge(name, value)?;
                    emit(Field { name, value, sensitive: false });
                }
                Representation::Literal { prefix, indexing } => {
                    self.literal(&mut input, prefix, indexing, &mut list, &mut emit)?;
                }
            }
            may_resize = false;
        }
        Ok(())
    }

    /// A literal field (RFC 7541 section 6.2). The table takes it last: the name
    /// may belong to an entry which the insertion evicts (section 4.4).
    fn literal(
        &mut self,
        input: &mut Input<'_>,
        prefix: u32,
        indexing: Indexing,
        list: &mut ListBudget,
        emit: &mut impl FnMut(Field<'_>),
    ) -> Result<(), HpackError> {
        let (mut name_text, mut value_text) = (Vec::new(), Vec::new());
        let name = match input.integer(prefix)? {
            0 => input.string(&mut name_text)?,
            index => self.table.get(index)?.0,
        };
        let value = input.string(&mut value_text)?;
        list.charge(name, value)?;
        emit(Field { name, value, sensitive: indexing == Indexing::Never });
        if indexing == Indexing::Incremental {
            let entry = Entry::new(name, value);
            self.table.insert(entry);
        }
        Ok(())
    }

    fn resize(&mut self, size: usize) -> Result<(), HpackError> {
        if size > self.announced {
            return Err(HpackError::SizeUpdateTooLarge { size, max: self.announced });
        }
        self.table.resize(size);
        Ok(())
    }
}

/// How much of the header list may still come.
struct ListBudget {
    left: usize,
    max: usize,
}

impl ListBudget {
    fn charge(&mut self, name: &[u8], value: &[u8]) -> Result<(), HpackError> {
        let size = name.len() + value.len() + ENTRY_OVERHEAD;
        self.left = self.left.checked_sub(size).ok_or(HpackError::ListTooLarge { max: self.max })?;
        Ok(())
    }
}

/// What is not yet read of a block.
struct Input<'b> {
    rest: &'b [u8],
}

impl<'b> Input<'b> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let (first, rest) = self.rest.split_first().ok_or(HpackError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }

    /// An integer whose first `prefix` bits share an octet with something else
    /// (RFC 7541 section 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, HpackError> {
        let full = (1_u64 << prefix) - 1;
        let mut value = u64::from(self.octet()?) & full;
        if value == full {
            let mut shift = 0;
            loop {
                let octet = self.octet()?;
                value += u64::from(octet & 0x7f) << shift;
                if octet & 0x80 == 0 {
                    break;
                }
                shift += 7;
                // Also ends a number that goes on for ever by adding zeros.
                if shift >= 7 * MAX_INTEGER_OCTETS {
                    return Err(HpackError::IntegerOverflow);
                }
            }
        }
        let value = u32::try_from(value).map_err(|_| HpackError::IntegerOverflow)?;
        usize::try_from(value).map_err(|_| HpackError::IntegerOverflow)
    }

    /// A string (RFC 7541 section 5.2): borrowed from the block if it is plain,
    /// else from `text`, into which it is decoded.
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

/// Appends one field in a form that leaves the reader's dynamic table alone: an
/// index into the static table, or a literal that is not to be indexed, without
/// Huffman coding.
pub(crate) fn encode(field: Field<'_>, out: &mut Vec<u8>) {
    let known = table::find(field.name, field.value);
    if let (Some(index), false) = (known.field, field.sensitive) {
        return put_integer(index, 7, 0x80, out);
    }
    let kind = if field.sensitive { 0x10 } else { 0x00 };
    put_integer(known.name.unwrap_or(0), 4, kind, out);
    if known.name.is_none() {
        put_string(field.name, out);
    }
    put_string(field.value, out);
}

fn put_string(text: &[u8], out: &mut Vec<u8>) {
    put_integer(text.len(), 7, 0x00, out);
    out.extend_from_slice(text);
}

/// Appends an integer (RFC 7541 section 5.1) whose first octet has `high` above
/// its `prefix` bits.
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
