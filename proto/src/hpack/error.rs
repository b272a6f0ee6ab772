//! Errors of a header block.

/// Why a header block cannot be decoded. The connection has to be closed, because
/// its compression state is lost (RFC 9113 section 4.3). Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HpackError {
    #[error("header block ends inside a field")]
    Truncated,
    /// An integer does not fit in 32 bits (RFC 7541 section 5.1).
    #[error("integer in a header block does not fit in 32 bits")]
    IntegerOverflow,
    /// An index of 0 or beyond both tables (RFC 7541 section 2.3.3).
    #[error("index {index} is in neither header table")]
    IndexOutOfRange { index: usize },
    /// A table size update behind a field (RFC 7541 section 4.2).
    #[error("table size update behind the first field of a block")]
    LateSizeUpdate,
    /// A table size update above the announced size (RFC 7541 section 6.3).
    #[error("table size update to {size} bytes is over the announced {max}")]
    SizeUpdateTooLarge { size: usize, max: usize },
    /// Padding that is not at most seven one bits (RFC 7541 section 5.2).
    #[error("huffman string with bad padding")]
    HuffmanPadding,
    /// A Huffman string with the end-of-string symbol (RFC 7541 section 5.2).
    #[error("huffman string with an end-of-string symbol inside")]
    HuffmanEos,
    #[error("decoded header list is over the limit of {max} bytes")]
    ListTooLarge { max: usize },
}
