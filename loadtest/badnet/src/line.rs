//! One direction of a bad line: which packets it loses, and when the others come out. No sockets and no
//! clock: time is an argument, and random numbers are seeded, so the same packets at the same times fare
//! alike.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::time::Instant;

/// Most packets on the way at once: 100 MB, the bandwidth-delay product of 1.6 Gbit/s at half a second. Fewer
/// would throttle such a line; more only cost memory.
const MOST_ON_THE_WAY: usize = 1 << 16;

/// The conditions of a line, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Conditions {
    /// Time that every packet takes.
    pub(crate) delay: Duration,
    /// Share of packets that are lost.
    pub(crate) loss: f64,
    /// Share of packets that come late, so that others overtake them.
    pub(crate) reorder: f64,
    /// By how much they come late.
    pub(crate) late: Duration,
    /// Bits per second; no limit without it.
    pub(crate) rate: Option<u64>,
    /// Longest time that a packet queues where there is a rate; one that would queue longer is dropped.
    pub(crate) queue: Duration,
}

/// Packets so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    /// Lost by chance.
    pub(crate) lost: u64,
    /// Dropped because the queue was full.
    pub(crate) overflowed: u64,
    /// Lost in a blackout.
    pub(crate) dark: u64,
    /// Longest packet, in bytes.
    pub(crate) longest: usize,
}

#[derive(Debug)]
pub(crate) struct Line {
    conditions: Conditions,
    dice: StdRng,
    dark: bool,
    /// When the line is free for the next packet.
    free_at: Option<Instant>,
    number: u64,
    on_the_way: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    counts: Counts,
}

impl Line {
    pub(crate) fn new(conditions: Conditions, seed: u64) -> Self {
        Self {
            conditions,
            dice: StdRng::seed_from_u64(seed),
            dark: false,
            free_at: None,
            number: 0,
            on_the_way: BinaryHeap::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
    }

    /// Begins or ends a blackout: no packet gets in, and those on the way still arrive.
    pub(crate) fn set_dark(&mut self, dark: bool) {
        self.dark = dark;
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// A packet goes in.
    pub(crate) fn put(&mut self, now: Instant, packet: &[u8]) {
        self.counts.longest = self.counts.longest.max(packet.len());
        if self.dark {
            self.counts.dark += 1;
            return;
        }
        let Conditions { delay, loss, reorder, late, rate, queue } = self.conditions;
        // Both random numbers are drawn in any case, so that one setting does not change the other's packets.
        let (lost, is_late) = (self.dice.random_bool(loss), self.dice.random_bool(reorder));
        if lost {
            self.counts.lost += 1;
            return;
        }
        let mut out = now;
        if let Some(rate) = rate {
            let free_at = self.free_at.map_or(now, |free_at| free_at.max(now));
            if free_at - now > queue {
                self.counts.overflowed += 1;
                return;
            }
            out = free_at + Duration::from_secs_f64(packet.len() as f64 * 8.0 / rate as f64);
            self.free_at = Some(out);
        }
        if self.on_the_way.len() >= MOST_ON_THE_WAY {
            self.counts.overflowed += 1;
            return;
        }
        self.number += 1;
        let at = out + delay + if is_late { late } else { Duration::ZERO };
        self.on_the_way.push(Reverse((at, self.number, packet.to_vec())));
    }

    /// When the next packet comes out.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.on_the_way.peek().map(|Reverse((at, _, _))| *at)
    }

    /// A packet that has come out by now.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, _, packet)) = self.on_the_way.pop()?;
        self.counts.passed += 1;
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    const GOOD: Conditions =
        Conditions { delay: ms(10), loss: 0.0, reorder: 0.0, late: ms(5), rate: None, queue: ms(50) };

    fn number(packet: &[u8]) -> u32 {
        u32::from_be_bytes(*packet.first_chunk().unwrap())
    }

    /// Sends packets of 1,000 bytes at an interval; when each came out, by number.
    fn send(line: &mut Line, count: u32, interval: Duration) -> Vec<(u32, Duration)> {
        let (start, mut out) = (Instant::now(), Vec::new());
        for n in 0..count {
            let now = start + interval * n;
            while let Some(at) = line.next().filter(|at| *at <= now) {
                out.push((number(&line.take(at).unwrap()), at - start));
            }
            let mut packet = vec![0; 1000];
            packet[..4].copy_from_slice(&n.to_be_bytes());
            line.put(now, &packet);
        }
        while let Some(at) = line.next() {
            assert_eq!(line.take(at - ms(1)), None);
            out.push((number(&line.take(at).unwrap()), at - start));
        }
        out
    }

    #[test]
    fn every_packet_of_a_good_line_comes_after_its_delay() {
        let mut line = Line::new(GOOD, 1);
        let out = send(&mut line, 100, ms(1));
        let expected: Vec<_> = (0..100).map(|n| (n, ms(10) + ms(1) * n)).collect();
        assert_eq!(out, expected);
        assert_eq!(line.counts(), Counts { passed: 100, longest: 1000, ..Counts::default() });
    }

    #[test]
    fn the_share_that_is_lost_is_as_asked_and_the_same_for_a_seed() {
        let lossy = Conditions { loss: 0.01, ..GOOD };
        let lost = |seed| {
            let mut line = Line::new(lossy, seed);
            let out = send(&mut line, 100_000, Duration::from_micros(100));
            assert_eq!(out.len() as u64 + line.counts().lost, 100_000);
            out.into_iter().map(|(n, _)| n).collect::<Vec<_>>()
        };
        let (once, again, other) = (lost(1), lost(1), lost(2));
        assert_eq!(once, again);
        assert_ne!(once, other);
        // Six standard deviations of the binomial distribution.
        assert!((98_811..=99_189).contains(&once.len()), "{} of 100000 came", once.len());
    }

    #[test]
    fn late_packets_are_overtaken() {
        let mut line = Line::new(Conditions { reorder: 0.1, ..GOOD }, 3);
        let out = send(&mut line, 10_000, ms(1));
        assert_eq!(out.len(), 10_000);
        let overtaken = out.windows(2).filter(|two| two[0].0 > two[1].0).count();
        assert!((700..=1000).contains(&overtaken), "{overtaken}");
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_is_bounded() {
        // 1,000 bytes take a millisecond.
        let narrow = Conditions { rate: Some(8_000_000), queue: ms(20), ..GOOD };
        let mut line = Line::new(narrow, 4);
        let out = send(&mut line, 1000, Duration::from_micros(500));
        assert!(out.windows(2).all(|two| two[1].1 - two[0].1 >= ms(1)), "faster than the rate");
        let longest = out.iter().map(|(n, at)| *at - Duration::from_micros(500) * *n).max().unwrap();
        assert!((ms(30)..=ms(32)).contains(&longest), "{longest:?} on the way");
        let Counts { passed, overflowed, .. } = line.counts();
        assert!((515..=525).contains(&passed) && passed + overflowed == 1000, "{passed}");
    }

    #[test]
    fn nothing_gets_into_a_dark_line_and_what_is_on_its_way_arrives() {
        let (mut line, now) = (Line::new(GOOD, 5), Instant::now());
        line.put(now, b"before");
        line.set_dark(true);
        line.put(now, b"lost");
        line.set_dark(false);
        line.put(now + ms(1), b"after");
        assert_eq!(line.take(now + ms(10)).unwrap(), b"before");
        assert_eq!(line.take(now + ms(11)).unwrap(), b"after");
        assert_eq!(line.next(), None);
        assert_eq!(line.counts(), Counts { passed: 2, dark: 1, longest: 6, ..Counts::default() });
    }
}
