//! Recent verdicts, by the hash of the token. Tokens are not kept.

use std::collections::HashMap;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tokio::time::Instant;

use super::{Reviewed, TokenError};

/// Most good tokens: one for each node of a large cluster. With fewer, its agents
/// push each other out; each costs about 300 bytes.
const GOOD: usize = 8192;

/// Most bad tokens. They have room of their own, so that a stranger with many of
/// them does not push out good ones.
const BAD: usize = 1024;

/// The SHA-256 of a token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn of(token: &str) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(key)
    }
}

/// Good and bad verdicts.
#[derive(Default)]
pub(crate) struct Memory {
    good: HashMap<Key, Kept<Reviewed>>,
    bad: HashMap<Key, Kept<TokenError>>,
}

struct Kept<T> {
    verdict: T,
    until: Instant,
}

impl Memory {
    /// The verdict on a token, if it is known.
    pub(crate) fn recall(&self, key: Key, now: Instant) -> Option<Result<Reviewed, TokenError>> {
        let good = self.good.get(&key).filter(|kept| kept.until > now);
        let bad = || self.bad.get(&key).filter(|kept| kept.until > now);
        good.map(|kept| Ok(kept.verdict.clone())).or_else(|| Some(Err(bad()?.verdict.clone())))
    }

    /// Keeps a verdict for as long as it `lasts`.
    pub(crate) fn keep(
        &mut self,
        key: Key,
        verdict: &Result<Reviewed, TokenError>,
        lasts: Duration,
        now: Instant,
    ) {
        if lasts.is_zero() {
            return;
        }
        let until = now + lasts;
        match verdict {
            Ok(verdict) => insert(&mut self.good, GOOD, key, Kept { verdict: verdict.clone(), until }, now),
            Err(verdict) => insert(&mut self.bad, BAD, key, Kept { verdict: verdict.clone(), until }, now),
        }
    }
}

fn insert<T>(known: &mut HashMap<Key, Kept<T>>, room: usize, key: Key, new: Kept<T>, now: Instant) {
    if known.len() >= room && !known.contains_key(&key) {
        known.retain(|_, kept| kept.until > now);
        // At most once per review, and reviews have a rate.
        if known.len() >= room
            && let Some(first) = known.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| *key)
        {
            known.remove(&first);
        }
    }
    known.insert(key, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: usize) -> Key {
        Key::of(&number.to_string())
    }

    #[tokio::test]
    async fn verdicts_are_forgotten_when_their_time_is_over() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep(key(1), &Ok(Reviewed::default()), MINUTE, now);
        memory.keep(key(2), &Err(TokenError::Busy), MINUTE, now);
        memory.keep(key(3), &Ok(Reviewed::default()), Duration::ZERO, now);
        let recall = |number, later| memory.recall(key(number), now + later);
        assert_eq!(recall(1, MINUTE / 2), Some(Ok(Reviewed::default())));
        assert_eq!(recall(2, MINUTE / 2), Some(Err(TokenError::Busy)));
        assert_eq!(recall(3, Duration::ZERO), None);
        assert_eq!(recall(1, MINUTE), None);
        assert_eq!(recall(2, MINUTE), None);
    }

    #[tokio::test]
    async fn many_bad_tokens_do_not_make_a_good_one_forgotten() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        memory.keep(key(0), &Ok(Reviewed::default()), MINUTE, now);
        for number in 1..=2 * BAD {
            memory.keep(key(number), &Err(TokenError::Busy), MINUTE, now);
        }
        assert!(memory.recall(key(0), now).is_some());
        assert!(memory.recall(key(2 * BAD), now).is_some(), "the newest is known");
        assert_eq!(memory.bad.len(), BAD);
    }

    #[tokio::test]
    async fn without_room_the_verdict_that_ends_first_goes() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for number in 0..GOOD {
            let lasts = MINUTE + Duration::from_millis(u64::try_from(number).unwrap());
            memory.keep(key(number), &Ok(Reviewed::default()), lasts, now);
        }
        memory.keep(key(GOOD), &Ok(Reviewed::default()), MINUTE * 2, now);
        assert_eq!(memory.good.len(), GOOD);
        assert!(memory.recall(key(0), now).is_none());
        assert!(memory.recall(key(1), now).is_some() && memory.recall(key(GOOD), now).is_some());
    }
}
