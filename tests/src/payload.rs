//! Payloads that show their connection and position.
//!
//! Both ends make the same bytes from a seed. So a byte that is lost, doubled, changed
//! or of another connection shows, with its position.

use std::io;

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use ring::digest::{Context, SHA256, digest as sha};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A SHA-256.
pub type Digest = [u8; 32];

/// Most bytes of one transfer of random size.
const LARGEST: usize = 300_000;

/// The payload of a seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A size for a seed: none, a few bytes, about a buffer, or many buffers.
pub fn size(seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(!seed);
    let largest = match random.random_range(0..10) {
        0 => return 0,
        1..=3 => 2_000,
        4..=8 => 70_000,
        _ => LARGEST,
    };
    random.random_range(1..=largest)
}

/// The digest of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    sha(&SHA256, bytes).as_ref().try_into().unwrap()
}

/// Fails, with the position of the first difference, if `seen` is not the
/// payload of `seed`.
pub fn assert_is(seen: &[u8], seed: u64, len: usize) {
    let expected = bytes(seed, len);
    if digest(seen) == digest(&expected) {
        return;
    }
    let at = seen.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(seen.len().min(len));
    panic!("payload {seed:#x}: {} bytes instead of {len}, and they differ at {at}", seen.len());
}

/// Hashes bytes as they come.
#[derive(Clone)]
pub struct Hasher(Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Hasher {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        self.0.finish().as_ref().try_into().unwrap()
    }
}

/// Announces a payload between tests and targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the payload.
    pub seed: u64,
    /// Of the payload.
    pub len: usize,
}

impl Header {
    /// A header for the payload of a seed, of the seed's size.
    pub fn of(seed: u64) -> Self {
        Self { seed, len: size(seed) }
    }

    /// The wire format: sixteen bytes.
    pub fn encode(self) -> [u8; 16] {
        let mut wire = [0; 16];
        wire[..8].copy_from_slice(&self.seed.to_le_bytes());
        wire[8..].copy_from_slice(&(self.len as u64).to_le_bytes());
        wire
    }

    /// Header and payload in one piece.
    pub fn with_payload(self) -> Vec<u8> {
        [&self.encode()[..], &bytes(self.seed, self.len)].concat()
    }

    /// Reads a header.
    ///
    /// # Errors
    /// When the peer ends within the header.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let (seed, len) = (from.read_u64_le().await?, from.read_u64_le().await?);
        Ok(Self { seed, len: usize::try_from(len).unwrap() })
    }
}

/// Reads to the end.
///
/// # Errors
/// When the end is not an orderly one.
pub async fn read_all(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await?;
    Ok(all)
}

/// Writes and flushes.
///
/// # Errors
/// As writing does.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
