//! How far away a peer is, and how much of a stream may be unread there.
//!
//! quinn takes the window of all streams when a connection begins, and how long a round
//! trip is shows a little later. So tunnels begin as near ones. An agent that finds its
//! server far away dials it again, says so in the first packet, where the server sees it
//! before it has to choose, and lets that tunnel take the place of the first.
//!
//! Wire: the destination id of the client's first packets, which is its own choice
//! (RFC 9000 section 7.2), ends with [`FAR`]. Servers that do not know it keep their
//! window, and random ids end like that once in 2^64 times.

use std::time::Duration;

use quinn::ConnectionId;
use rand::Rng as _;

/// Round trips from here on are long: a near window carries 100 MB/s then, and less the
/// longer they are.
const LONG: Duration = Duration::from_millis(10);

/// What the first destination id of an agent ends with that is far away.
const FAR: &[u8; 8] = b"far away";

/// Random bytes in front of it. An id has to have eight (RFC 9000 section 7.2), and none
/// has more than twenty.
const RANDOM: usize = 12;

/// The two kinds of tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// On the same network, or in the same region.
    Near,
    /// Far enough for round trips to decide how fast a stream is.
    Far,
}

impl Distance {
    /// By the shortest round trip.
    pub(super) fn of(round_trip: Duration) -> Self {
        if round_trip < LONG { Self::Near } else { Self::Far }
    }

    /// Unread bytes that one stream may hold at its receiver. A stalled reader pins as
    /// many; far away, as many as on h2.
    pub(super) const fn window(self) -> u32 {
        match self {
            Self::Near => 1 << 20,
            Self::Far => 4 << 20,
        }
    }

    /// What a client's first destination id says.
    pub(super) fn said_in(id: &ConnectionId) -> Self {
        if id.ends_with(FAR) { Self::Far } else { Self::Near }
    }
}

/// A first destination id that says [`Distance::Far`].
pub(super) fn far_id() -> ConnectionId {
    let mut id = [0; RANDOM + FAR.len()];
    let (random, far) = id.split_at_mut(RANDOM);
    rand::rng().fill_bytes(random);
    far.copy_from_slice(FAR);
    ConnectionId::new(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_that_its_agent_is_far_away() {
        let ids = [far_id(), far_id()];
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids.map(|id| Distance::said_in(&id)), [Distance::Far; 2]);
        for near in [&[][..], b"away", b"far awa", b"far away from it all"] {
            assert_eq!(Distance::said_in(&ConnectionId::new(near)), Distance::Near, "{near:?}");
        }
    }

    #[test]
    fn long_round_trips_make_large_windows() {
        let of = |ms| Distance::of(Duration::from_millis(ms));
        assert_eq!([0, 9, 10, 300].map(of), [Distance::Near, Distance::Near, Distance::Far, Distance::Far]);
        assert!(Distance::Far.window() > Distance::Near.window());
    }
}
