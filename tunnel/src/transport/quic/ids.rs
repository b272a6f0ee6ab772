//! Connection ids that a restarted server recognizes as its predecessor's.
//!
//! quinn's own such ids have 24 random bits. With a thousand agents, at every other restart
//! an agent's old id equals one of a new tunnel, which drops the agent's packets as forged.
//! The agent gets no reset then, and waits for 15 s until its server is suspect.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use rand::Rng as _;
use ring::hmac;

/// Random bytes of an id. Fewer collide, as above.
const NONCE: usize = 5;

/// Bytes that prove the key: of 16 million stray packets, one is reset in vain.
const PROOF: usize = 3;

/// Makes and recognizes ids by a key.
#[derive(Debug, Clone)]
pub(super) struct Ids(hmac::Key);

impl Ids {
    /// The ids of a server with this key, which may have other uses.
    pub(super) fn new(key: &hmac::Key) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(key, b"connection ids").as_ref()))
    }

    fn proof(&self, nonce: &[u8]) -> [u8; PROOF] {
        let tag = hmac::sign(&self.0, nonce);
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; NONCE + PROOF];
        let (nonce, proof) = id.split_at_mut(NONCE);
        rand::rng().fill_bytes(nonce);
        proof.copy_from_slice(&self.proof(nonce));
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(NONCE) {
            Some((nonce, proof)) if proof == self.proof(nonce) => Ok(()),
            Some(_) | None => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        NONCE + PROOF
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(key: &[u8]) -> Ids {
        Ids::new(&hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    #[test]
    fn a_successor_knows_them_and_nobody_else_does() {
        let id = ids(b"one").generate_cid();
        assert!(ids(b"one").validate(&id).is_ok());
        assert!(ids(b"two").validate(&id).is_err());
        assert!(ids(b"one").validate(&ConnectionId::new(&[])).is_err());
    }

    /// With 24 bits, as many as a thousand agents need collide.
    #[test]
    fn forty_bits_of_them_are_random() {
        let mut ids = ids(b"one");
        let (mut ever, mut always) = ([0; NONCE], [u8::MAX; NONCE]);
        for _ in 0..1000 {
            for (at, byte) in ids.generate_cid()[..NONCE].iter().enumerate() {
                ever[at] |= byte;
                always[at] &= byte;
            }
        }
        assert_eq!((ever, always), ([u8::MAX; 5], [0; 5]));
    }
}
