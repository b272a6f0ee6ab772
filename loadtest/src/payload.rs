//! Payloads: a pseudo-random sequence of bytes per seed, and checks against it.
//!
//! Both ends make the same sequence from the seed, so the first byte that is lost, repeated, changed or
//! another connection's is known by its position.

use ring::digest::{Context, SHA256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Bytes per read and write of bulk. Smaller blocks make the system calls of this program a part of the
/// figures.
pub(crate) const BLOCK: usize = 256 * 1024;

pub(crate) static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The sequence of a seed (SplitMix64); it does not depend on the sizes of the pieces.
#[derive(Debug, Clone)]
pub(crate) struct Payload {
    state: u64,
    /// The rest of the last word, lowest byte first.
    spare: u64,
    spare_len: usize,
}

impl Payload {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed, spare: 0, spare_len: 0 }
    }

    /// The next `out.len()` bytes.
    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        let first = self.spare_len.min(out.len());
        let (head, rest) = out.split_at_mut(first);
        self.use_spare(head);
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next_word().to_le_bytes());
        }
        let tail = words.into_remainder();
        if !tail.is_empty() {
            self.spare = self.next_word();
            self.spare_len = 8;
            self.use_spare(tail);
        }
    }

    /// Writes the next `count` bytes, in pieces of `block`'s length.
    pub(crate) async fn write(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        count: u64,
        block: &mut [u8],
    ) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let now = block.len().min(usize::try_from(left)?);
            self.fill(&mut block[..now]);
            to.write_all(&block[..now]).await?;
            left -= now as u64;
        }
        Ok(())
    }

    fn use_spare(&mut self, out: &mut [u8]) {
        for byte in out {
            *byte = (self.spare & 0xff) as u8;
            self.spare >>= 8;
            self.spare_len -= 1;
        }
    }

    fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Compares received bytes with a payload.
#[derive(Debug)]
pub(crate) struct Checker {
    payload: Payload,
    expected: Vec<u8>,
    seen: u64,
    differs_at: Option<u64>,
}

impl Checker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { payload: Payload::new(seed), expected: Vec::new(), seen: 0, differs_at: None }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.expected.resize(bytes.len(), 0);
        self.payload.fill(&mut self.expected);
        if self.differs_at.is_none() && self.expected != bytes {
            let at = self.expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
            self.differs_at = Some(self.seen + at as u64);
        }
        self.seen += bytes.len() as u64;
    }

    /// Takes all bytes up to the end, with a buffer of `size` bytes.
    pub(crate) async fn read_to_end(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        size: usize,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; size];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            self.take(&buffer[..read]);
        }
    }

    /// The verdict on a payload of `count` bytes.
    pub(crate) fn verdict(&self, count: u64) -> Verdict {
        match self.differs_at {
            Some(at) => Verdict::Mixed(format!("byte {at} of {count} differs")),
            None if self.seen > count => Verdict::Mixed(format!("{} bytes instead of {count}", self.seen)),
            None if self.seen < count => Verdict::Lost(format!("{} bytes of {count}", self.seen)),
            None => Verdict::Whole,
        }
    }
}

/// Whether the bytes of one connection arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Fewer arrived than were sent.
    Lost(String),
    /// Others arrived than were sent.
    Mixed(String),
    /// All of them arrived, and nothing else.
    Whole,
}

impl Verdict {
    /// # Errors
    /// Unless all bytes arrived.
    pub(crate) fn ensure_whole(self) -> anyhow::Result<()> {
        match self {
            Self::Whole => Ok(()),
            Self::Lost(what) => anyhow::bail!("bytes were lost: {what}"),
            Self::Mixed(what) => anyhow::bail!("bytes were mixed up: {what}"),
        }
    }
}

/// Count and SHA-256 of bytes, which the two ends compare.
pub(crate) struct Tally {
    count: u64,
    hash: Context,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self { count: 0, hash: Context::new(&SHA256) }
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        self.hash.update(bytes);
    }

    /// `COUNT HEX`
    pub(crate) fn text(self) -> String {
        let hex: String = self.hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {hex}", self.count)
    }
}

/// Compares the target's tally with ours.
pub(crate) fn compare_tallies(theirs: &str, ours: &str) -> Verdict {
    if theirs == ours {
        return Verdict::Whole;
    }
    let count = |text: &str| text.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    match (count(theirs), count(ours)) {
        (Some(there), Some(here)) if there < here => Verdict::Lost(format!("{there} bytes of {here}")),
        _ => Verdict::Mixed(format!("the target has {theirs:?} instead of {ours:?}")),
    }
}

/// A size from 1 byte to 1 MiB; each of the 20 magnitudes is equally likely.
pub(crate) fn random_size() -> u64 {
    let magnitude = rand::random::<u64>() % 20;
    (1 << magnitude) + rand::random::<u64>() % (1 << magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_does_not_depend_on_how_it_is_cut() {
        let mut whole = vec![0; 1000];
        Payload::new(7).fill(&mut whole);
        for piece in [1, 3, 7, 8, 9, 100] {
            let mut pieces = vec![0; 1000];
            let mut payload = Payload::new(7);
            pieces.chunks_mut(piece).for_each(|chunk| payload.fill(chunk));
            assert!(pieces == whole, "pieces of {piece}");
        }
        let mut other = vec![0; 1000];
        Payload::new(8).fill(&mut other);
        assert!(other != whole);
    }

    #[test]
    fn what_was_lost_or_mixed_is_told() {
        let mut bytes = vec![0; 100];
        Payload::new(7).fill(&mut bytes);
        let verdict = |bytes: &[u8]| {
            let mut checker = Checker::new(7);
            bytes.chunks(33).for_each(|chunk| checker.take(chunk));
            checker.verdict(100)
        };
        assert_eq!(verdict(&bytes), Verdict::Whole);
        assert!(matches!(verdict(&bytes[..99]), Verdict::Lost(_)));
        assert!(matches!(verdict(&[&bytes[..], b"x"].concat()), Verdict::Mixed(_)));
        bytes[70] ^= 1;
        assert_eq!(verdict(&bytes), Verdict::Mixed("byte 70 of 100 differs".into()));
        assert!(matches!(verdict(&bytes[1..]), Verdict::Mixed(_)));
    }

    #[test]
    fn tallies_are_compared_by_count_and_hash() {
        let text = |bytes: &[u8]| {
            let mut tally = Tally::new();
            tally.take(bytes);
            tally.text()
        };
        assert_eq!(compare_tallies(&text(b"abc"), &text(b"abc")), Verdict::Whole);
        assert_eq!(compare_tallies(&text(b"ab"), &text(b"abc")), Verdict::Lost("2 bytes of 3".into()));
        assert!(matches!(compare_tallies(&text(b"abd"), &text(b"abc")), Verdict::Mixed(_)));
        assert!(matches!(compare_tallies("", &text(b"abc")), Verdict::Mixed(_)));
    }

    #[test]
    fn sizes_stay_in_their_range() {
        assert!((0..10_000).map(|_| random_size()).all(|size| (1..=1 << 20).contains(&size)));
    }
}
