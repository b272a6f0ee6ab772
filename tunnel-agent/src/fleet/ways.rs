//! How the links fared on the way to each endpoint, as a value without timers.
//!
//! A link is judged by what it carries. Some networks let QUIC shake hands and then drop its
//! datagrams: each tunnel that fell silent while it was young counts against QUIC on that way,
//! and h2 is taken for a pause that grows with the count. A tunnel that lasted takes the count
//! back. Then QUIC is tried beside the tunnel on h2 (`plan/trial.rs`).
//!
//! A path may also carry less than the kernel believes, without a word (an MTU black hole). TCP
//! then loses all large segments and nothing else. After the silence of a tunnel, the next ones
//! on TCP on that way have small segments; after a handshake that timed out, a handshake gets
//! them if it hangs. Where tunnels on h2 with small segments fall silent, h2 has lost the head start
//! that it may have won.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;

use super::pace::Pace;
use crate::course::{Course, Order, Reason, Segments};
use crate::endpoint::Endpoint;

/// Time for which h2 is preferred after it won a race. Shorter, and agents without UDP lose the
/// head start again and again; longer, and agents stay on h2 after a passing failure.
const BLOCKED: Duration = Duration::from_secs(600);

/// Age of a tunnel on QUIC from which its silence is no proof against QUIC. Shorter, and a router
/// that drops busy flows is believed again and again; longer, and a blackout moves agents to h2.
const LASTED: Duration = Duration::from_secs(600);

/// Time for which a way stays doubtful or narrow. Shorter, and a tunnel is lost again to a path
/// that has not changed; longer, and small segments cost a repaired path some speed.
const MEMORY: Duration = Duration::from_secs(3600);

/// Most ways remembered: more than there are endpoints.
const MOST: usize = 512;

/// The way to one endpoint.
#[derive(Debug, Default)]
struct Way {
    /// When h2 won a race that QUIC lost.
    blocked: Option<Instant>,
    /// Young tunnels on QUIC that fell silent in a row.
    silent: u32,
    /// Until when QUIC is not tried where h2 works.
    shunned: Option<Instant>,
    /// Since when it is doubtful that large packets pass.
    doubtful: Option<Instant>,
    /// Since when large TCP segments are known not to pass.
    narrow: Option<Instant>,
    /// The server asks for h2.
    told: bool,
}

/// All ways.
#[derive(Debug, Default)]
pub(super) struct Ways(BTreeMap<Endpoint, Way>);

impl Ways {
    /// How to dial an endpoint.
    pub(super) fn course(&self, endpoint: &Endpoint, now: Instant) -> Course {
        let Some(way) = self.0.get(endpoint) else {
            return Course { order: Order::Race, segments: Segments::Whole };
        };
        let order = if way.told {
            Order::H2Only
        } else if way.is_shunned(now) {
            Order::H2First
        } else if lately(way.blocked, BLOCKED, now) {
            Order::H2Ahead
        } else {
            Order::Race
        };
        let segments = if lately(way.narrow, MEMORY, now) {
            Segments::Small
        } else if lately(way.doubtful, MEMORY, now) {
            Segments::Doubtful
        } else {
            Segments::Whole
        };
        Course { order, segments }
    }

    /// As [`Self::course`], to move a tunnel to another link.
    pub(super) fn move_course(&self, endpoint: &Endpoint, now: Instant) -> Course {
        let course = self.course(endpoint, now);
        match course.order {
            Order::H2Only => course,
            Order::Race | Order::H2Ahead | Order::H2First | Order::QuicOnly => {
                Course { order: Order::QuicOnly, ..course }
            }
        }
    }

    /// The reason for the link of a tunnel that was established now.
    pub(super) fn reason(&self, endpoint: &Endpoint, link: Link, now: Instant) -> Reason {
        let way = self.0.get(endpoint);
        match link {
            Link::Konnectivity => Reason::Alone,
            Link::Quic => Reason::Works,
            Link::H2 => match way {
                Some(way) if way.told => Reason::Told,
                Some(way) if way.is_shunned(now) => Reason::Silent(way.silent),
                Some(_) | None => Reason::Blocked,
            },
        }
    }

    /// A race is over.
    pub(super) fn raced(&mut self, endpoint: &Endpoint, won: Link, now: Instant) {
        let way = self.way(endpoint, now);
        match won {
            Link::Quic => way.blocked = None,
            // The first win of h2 counts, so that QUIC is preferred again in the end.
            Link::H2 | Link::Konnectivity => {
                way.blocked = way.blocked.filter(|at| now < *at + BLOCKED).or(Some(now));
            }
        }
    }

    /// A tunnel of this age fell silent. `random` is from 0 up to 1.
    pub(super) fn fell_silent(
        &mut self,
        endpoint: &Endpoint,
        link: Link,
        age: Duration,
        now: Instant,
        random: f64,
    ) {
        let way = self.way(endpoint, now);
        match link {
            Link::Quic => {
                // Large packets may be those that vanish. Nothing tells before the next tunnel is lost to
                // its first transfer.
                way.narrow = Some(now);
                way.silent = if age >= LASTED { 0 } else { way.silent.saturating_add(1) };
                way.shunned = (way.silent > 0).then(|| now + Pace::shunned(way.silent, random));
            }
            Link::H2 => {
                // Small segments were of no use. Where QUIC is blocked, its head start costs little.
                if lately(way.narrow, MEMORY, now) {
                    way.blocked = None;
                }
                way.narrow = Some(now);
            }
            // The link's own pings found it dead.
            Link::Konnectivity => {}
        }
    }

    /// The silent tunnel on QUIC was heard of again.
    pub(super) fn spoke_again(&mut self, endpoint: &Endpoint, now: Instant) {
        let way = self.way(endpoint, now);
        way.silent = way.silent.saturating_sub(1);
        way.shunned = None;
    }

    /// A handshake on h2 timed out.
    pub(super) fn timed_out(&mut self, endpoint: &Endpoint, now: Instant) {
        self.way(endpoint, now).doubtful = Some(now);
    }

    /// Whether the server asks for h2.
    pub(super) fn told(&mut self, endpoint: &Endpoint, told: bool, now: Instant) {
        if told || self.0.contains_key(endpoint) {
            self.way(endpoint, now).told = told;
        }
    }

    /// Until when QUIC is not tried where h2 works.
    pub(super) fn shunned(&self, endpoint: &Endpoint, now: Instant) -> Option<Instant> {
        self.0.get(endpoint)?.shunned.filter(|until| *until > now)
    }

    fn way(&mut self, endpoint: &Endpoint, now: Instant) -> &mut Way {
        if self.0.len() >= MOST && !self.0.contains_key(endpoint) {
            self.0.retain(|_, way| !way.is_forgotten(now));
            if self.0.len() >= MOST {
                // Names that resolve to ever new addresses.
                self.0.clear();
            }
        }
        self.0.entry(endpoint.clone()).or_default()
    }
}

impl Way {
    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned.is_some_and(|until| until > now)
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        let Self { blocked, silent, shunned: _, doubtful, narrow, told } = self;
        let remembered = *told || *silent > 0 || lately(*blocked, BLOCKED, now);
        !remembered && !lately(*doubtful, MEMORY, now) && !lately(*narrow, MEMORY, now)
    }
}

fn lately(at: Option<Instant>, memory: Duration, now: Instant) -> bool {
    at.is_some_and(|at| now < at + memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn endpoint(n: u8) -> Endpoint {
        Endpoint { addr: ([10, 0, 0, n], 8091).into(), name: "server".into() }
    }

    /// The pause after each of so many silences in a row.
    fn pauses(ways: &mut Ways, silences: usize) -> Vec<u64> {
        let mut now = Instant::now();
        let mut pause = || {
            ways.fell_silent(&endpoint(1), Link::Quic, MINUTE, now, 0.5);
            let until = ways.shunned(&endpoint(1), now).unwrap();
            assert_eq!(ways.course(&endpoint(1), now).order, Order::H2First);
            assert_eq!(ways.course(&endpoint(2), now).order, Order::Race, "another way");
            let pause = until - now;
            now = until;
            assert_eq!(ways.course(&endpoint(1), now).order, Order::Race);
            pause.as_secs()
        };
        (0..silences).map(|_| pause()).collect()
    }

    #[test]
    fn the_pause_grows_with_each_silence_until_quic_has_lasted() {
        let mut ways = Ways::default();
        assert_eq!(pauses(&mut ways, 8), [60, 120, 240, 480, 960, 1920, 3600, 3600]);
        // One that lasted is forgiven, and so are those before it.
        let now = Instant::now();
        ways.fell_silent(&endpoint(1), Link::Quic, LASTED, now, 0.5);
        assert_eq!(ways.course(&endpoint(1), now).order, Order::Race);
        assert_eq!(pauses(&mut ways, 2), [60, 120]);
    }

    #[test]
    fn a_silence_that_ends_does_not_count() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        ways.fell_silent(&endpoint(1), Link::Quic, MINUTE, now, 0.5);
        assert_eq!(ways.reason(&endpoint(1), Link::H2, now), Reason::Silent(1));
        ways.spoke_again(&endpoint(1), now);
        assert_eq!(ways.course(&endpoint(1), now).order, Order::Race);
        assert_eq!(pauses(&mut ways, 1), [60]);
    }

    #[test]
    fn a_lost_race_is_remembered_from_the_first_one_on() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        ways.raced(&endpoint(1), Link::H2, now);
        ways.raced(&endpoint(1), Link::H2, now + 9 * MINUTE);
        assert_eq!(ways.course(&endpoint(1), now + 9 * MINUTE).order, Order::H2Ahead);
        assert_eq!(ways.course(&endpoint(1), now + 10 * MINUTE).order, Order::Race);
        ways.raced(&endpoint(1), Link::H2, now + 10 * MINUTE);
        assert_eq!(ways.course(&endpoint(1), now + 11 * MINUTE).order, Order::H2Ahead);
        ways.raced(&endpoint(1), Link::Quic, now + 12 * MINUTE);
        assert_eq!(ways.course(&endpoint(1), now + 12 * MINUTE).order, Order::Race);
    }

    #[test]
    fn h2_that_falls_silent_with_small_segments_gives_quic_the_head_start_again() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        let order = |ways: &Ways, now| ways.course(&endpoint(1), now).order;
        ways.raced(&endpoint(1), Link::H2, now);
        ways.fell_silent(&endpoint(1), Link::H2, MINUTE, now, 0.5);
        assert_eq!(order(&ways, now), Order::H2Ahead, "small segments may help");
        ways.fell_silent(&endpoint(1), Link::H2, MINUTE, now + MINUTE, 0.5);
        assert_eq!(order(&ways, now + MINUTE), Order::Race);
        // Long after that, h2 wins again, and segments are whole.
        let later = now + MINUTE + MEMORY;
        ways.raced(&endpoint(1), Link::H2, later);
        ways.fell_silent(&endpoint(1), Link::H2, MINUTE, later, 0.5);
        assert_eq!(order(&ways, later), Order::H2Ahead);
        ways.told(&endpoint(1), true, later);
        ways.fell_silent(&endpoint(1), Link::H2, MINUTE, later, 0.5);
        assert_eq!(order(&ways, later), Order::H2Only);
    }

    #[test]
    fn segments_are_small_only_where_large_ones_may_vanish() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        let segments = |ways: &Ways, now| ways.course(&endpoint(1), now).segments;
        assert_eq!(segments(&ways, now), Segments::Whole);
        ways.fell_silent(&endpoint(1), Link::Quic, MINUTE, now, 0.5);
        assert_eq!(segments(&ways, now), Segments::Small);
        let mut ways = Ways::default();
        ways.fell_silent(&endpoint(1), Link::H2, MINUTE, now, 0.5);
        assert_eq!(segments(&ways, now), Segments::Small);
        assert_eq!(segments(&ways, now + MEMORY), Segments::Whole);
        ways.timed_out(&endpoint(1), now + MEMORY);
        assert_eq!(segments(&ways, now + MEMORY), Segments::Doubtful);
    }

    #[test]
    fn the_word_of_a_server_holds_until_it_says_otherwise() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        ways.told(&endpoint(1), true, now);
        assert_eq!(ways.course(&endpoint(1), now).order, Order::H2Only);
        assert_eq!(ways.move_course(&endpoint(1), now).order, Order::H2Only);
        assert_eq!(ways.reason(&endpoint(1), Link::H2, now), Reason::Told);
        ways.told(&endpoint(1), false, now);
        assert_eq!(ways.course(&endpoint(1), now).order, Order::Race);
        assert_eq!(ways.move_course(&endpoint(1), now).order, Order::QuicOnly);
    }

    #[test]
    fn memory_is_bounded() {
        let (mut ways, now) = (Ways::default(), Instant::now());
        for n in 0..5000_u16 {
            let endpoint = Endpoint { addr: ([10, 0, 0, 1], n).into(), name: "server".into() };
            ways.fell_silent(&endpoint, Link::Quic, MINUTE, now, 0.5);
        }
        assert!(ways.0.len() <= MOST);
    }
}
