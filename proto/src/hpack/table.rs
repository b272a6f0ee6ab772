//! The two header tables of HPACK (RFC 7541 section 2.3 and appendix A).
//!
//! Indices 1 to 61 are the static table; behind it are the entries of the dynamic
//! table, the newest first.

use std::collections::VecDeque;

use super::error::HpackError;

/// Size of an entry beyond its name and value in octets (RFC 7541 section 4.1;
/// for header lists RFC 9113 section 6.5.2).
pub(super) const ENTRY_OVERHEAD: usize = 32;

/// Size of the dynamic table in bytes, before and at most after any size update:
/// the server announces no SETTINGS_HEADER_TABLE_SIZE (RFC 9113 section 6.5.2).
const MAX_SIZE: usize = 4096;

/// RFC 7541 appendix A; index 1 comes first.
#[rustfmt::skip]
pub(super) static STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""), ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""), ("accept-ranges", ""), ("accept", ""), ("access-control-allow-origin", ""),
    ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""),
    ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""),
    ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""),
    ("retry-after", ""), ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""),
    ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// A field of the dynamic table, in one allocation.
#[derive(Debug)]
pub(super) struct Entry {
    /// The name, then the value.
    text: Box<[u8]>,
    name_len: usize,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Self {
        Self { text: [name, value].concat().into(), name_len: name.len() }
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.text.split_at(self.name_len)
    }

    /// RFC 7541 section 4.1.
    fn size(&self) -> usize {
        self.text.len() + ENTRY_OVERHEAD
    }
}

/// The dynamic table (RFC 7541 sections 2.3.2 and 4): first in, first out.
#[derive(Debug)]
pub(super) struct DynamicTable {
    /// The newest entry first.
    entries: VecDeque<Entry>,
    /// Sum of the entries' sizes in bytes.
    used: usize,
    /// The limit of `used`, in bytes.
    size: usize,
}

impl DynamicTable {
    pub(super) const fn new() -> Self {
        Self { entries: VecDeque::new(), used: 0, size: MAX_SIZE }
    }

    /// Name and value at `index` of both tables.
    ///
    /// # Errors
    /// [`HpackError::IndexOutOfRange`] for 0 and beyond the oldest entry.
    pub(super) fn get(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let out_of_range = HpackError::IndexOutOfRange { index };
        let index = index.checked_sub(1).ok_or(out_of_range)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        self.entries.get(index - STATIC.len()).map(Entry::parts).ok_or(out_of_range)
    }

    /// Adds the newest entry. One larger than the table empties it and is not kept,
    /// which is no error (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.size.saturating_sub(size));
        if size <= self.size {
            self.used += size;
            self.entries.push_front(entry);
        }
    }

    /// Changes the table's size and evicts the entries over it.
    ///
    /// # Errors
    /// [`HpackError::SizeUpdateTooLarge`].
    pub(super) fn resize(&mut self, size: usize) -> Result<(), HpackError> {
        if size > MAX_SIZE {
            return Err(HpackError::SizeUpdateTooLarge { size, max: MAX_SIZE });
        }
        self.size = size;
        self.shrink(size);
        Ok(())
    }

    fn shrink(&mut self, target: usize) {
        while self.used > target
            && let Some(oldest) = self.entries.pop_back()
        {
            self.used -= oldest.size();
        }
    }

    #[cfg(test)]
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
