//! Whether the full packets of an agent on QUIC arrive: a value, without timers.
//!
//! Small packets prove nothing about full ones. Where those of an agent vanish, what targets send stands still while
//! heartbeats pass. Nothing is asked: what streams send is enough, and without it nobody waits.

use tokio::time::Instant;

use crate::transport::quic::FullPackets;

/// Looks at which full packets were newly lost that are a proof. With fewer, a blackout of bulk is one: at its end all
/// that was under way is found lost, by the first acknowledgement or two. With more, a black hole is found late: QUIC
/// fills packets up with what it repeats, so few are short enough to arrive.
const PROOF: u32 = 3;

/// Full packets since one of them was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Full {
    seen: FullPackets,
    /// Those sent until one was acknowledged, or some were lost.
    sent: u64,
    /// Looks at which some were newly lost.
    lost: u32,
    /// The time of the first one.
    since: Option<Instant>,
}

impl Full {
    /// To be called with each heartbeat.
    pub(super) fn look(&mut self, now: Instant, packets: FullPackets) {
        let before = std::mem::replace(&mut self.seen, packets);
        if packets.acknowledged != before.acknowledged {
            (self.sent, self.lost, self.since) = (packets.sent, 0, None);
        } else if packets.lost != before.lost && packets.sent != self.sent {
            (self.sent, self.lost) = (packets.sent, self.lost.saturating_add(1));
            self.since.get_or_insert(now);
        }
    }

    /// Since when all of them vanish.
    pub(super) fn lost_since(&self) -> Option<Instant> {
        self.since.filter(|_| self.lost >= PROOF)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Looks {
        full: Full,
        began: Instant,
        second: u64,
        packets: FullPackets,
    }

    impl Looks {
        fn new() -> Self {
            Self { full: Full::default(), began: Instant::now(), second: 0, packets: FullPackets::default() }
        }

        /// Looks once a second, so many times, each after so many of these. Returns the second from which full packets
        /// vanish.
        fn look(&mut self, times: u32, sent: u64, acknowledged: u64, lost: u64) -> Option<u64> {
            for _ in 0..times {
                self.second += 1;
                self.packets.sent += sent;
                self.packets.acknowledged += acknowledged;
                self.packets.lost += lost;
                self.full.look(self.began + Duration::from_secs(self.second), self.packets);
            }
            self.full.lost_since().map(|at| (at - self.began).as_secs())
        }
    }

    #[test]
    fn full_packets_vanish_once_they_are_lost_again_and_again() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(10, 3, 3, 0), None);
        assert_eq!(looks.look(PROOF - 1, 9, 0, 1), None);
        assert_eq!(looks.look(5, 9, 0, 0), None, "nothing is acknowledged at all");
        assert_eq!(looks.look(1, 0, 0, 1), Some(11));
        assert_eq!(looks.look(50, 0, 0, 0), Some(11), "nobody sends any more");
        assert_eq!(looks.look(1, 1, 1, 0), None, "one arrived");
    }

    #[test]
    fn losses_of_a_path_and_of_a_blackout_prove_nothing() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(99, 90, 80, 10), None, "bulk");
        assert_eq!(looks.look(99, 2, 0, 0), None, "a blackout");
        assert_eq!(looks.look(9, 0, 0, 1), None, "its end, after which nobody sends");
        assert_eq!(looks.look(99, 0, 0, 1), None, "many small packets");
    }
}
