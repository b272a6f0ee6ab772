//! Losses, queues and rates of the last seconds, and whether they show congestion.

use std::time::{Duration, Instant};

/// One in this many bytes may be lost without congestion; see the parent module.
const FEW: u64 = 50;

/// Datagrams that may be lost without congestion however few were sent, since a single
/// early loss proves nothing.
const A_FEW: u64 = 8;

/// Losses are counted over this many windows. Fewer see chance; more are late.
const WINDOWS: u64 = 4;

/// Losses are counted over at least this many bytes. With 1 MiB, a path that loses one datagram in
/// a hundred seems congested by chance every few seconds; more are late.
const LEAST_COUNTED: u64 = 4 << 20;

/// A round trip longer than the shortest by this, or by a quarter of it, shows a queue.
/// Less would take the scheduling of processes for a queue.
const TURN: Duration = Duration::from_millis(5);

/// A queue stands when the acknowledgements of so many round trips have all shown it. In the first of
/// them the last reduction of the window takes effect. Fewer take a process that is scheduled
/// late for a queue, and Cubic needs ten seconds to regrow; more let a full queue last longer.
const STANDS: u32 = 2;

/// The outcome of the bytes sent lately.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lately {
    acknowledged: u64,
    pub(super) lost: u64,
    /// Since then all round-trip times have shown a queue, and the window was not reduced.
    queued: Option<Instant>,
    /// The shortest and the last round-trip time.
    round_trips: (Duration, Duration),
    delivered: Delivered,
}

impl Lately {
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        bytes: u64,
        window: u64,
        shortest: Duration,
        last: Duration,
    ) {
        self.acknowledged += bytes;
        self.round_trips = (shortest, last);
        self.delivered.acknowledged(now, bytes, last);
        if last <= shortest + TURN.max(shortest / 4) {
            self.queued = None;
        } else if self.queued.is_none() {
            self.queued = Some(now);
        }
        if self.acknowledged + self.lost > LEAST_COUNTED.max(window.saturating_mul(WINDOWS)) {
            self.acknowledged /= 2;
            self.lost /= 2;
        }
    }

    /// Whether the losses show congestion.
    pub(super) fn is_congested(&self, now: Instant, window: u64, datagram: u64) -> bool {
        let few = (self.acknowledged + self.lost) / FEW;
        self.lost > few.max(A_FEW * datagram) || (self.has_queue(now) && window > self.path())
    }

    fn has_queue(&self, now: Instant) -> bool {
        let (_, last) = self.round_trips;
        self.queued.is_some_and(|since| now.saturating_duration_since(since) >= last * STANDS)
    }

    /// Bytes that the path holds without a queue. A window that fits did not make the queue, and a
    /// smaller one would not end it: the machine may be busy, or others fill the router.
    fn path(&self) -> u64 {
        let (shortest, _) = self.round_trips;
        let bytes = self.delivered.most() * shortest.as_secs_f64();
        LEAST_PATH.max(bytes as u64)
    }

    /// The window was reduced: what was seen is used up.
    pub(super) fn reduced(&mut self) {
        (self.acknowledged, self.lost, self.queued) = (0, 0, None);
    }
}

/// Time for which the highest rate of delivery is remembered, once to twice. Cubic takes up to 14 s to
/// regrow a window of 5 MB. With less than that, a busy machine reduces the window
/// again before; with more, a share that others have taken is yielded late.
const REMEMBERED: Duration = Duration::from_secs(15);

/// Bytes that each path is taken to hold: the initial window of RFC 9002, section 7.2. Less leaves a
/// connection that has carried little with a window of two datagrams; more fills the queue of a slow path.
const LEAST_PATH: u64 = 14_720;

/// Rates of delivery, in bytes per second.
#[derive(Debug, Clone, Copy, Default)]
struct Delivered {
    /// The round that is measured, and its bytes so far.
    round: Option<(Instant, u64)>,
    /// Since when `highest` has been collected.
    since: Option<Instant>,
    highest: f64,
    /// The highest of the period before.
    earlier: f64,
}

impl Delivered {
    /// Rounds take two round trips, so that acknowledgements that come in bursts even out.
    fn acknowledged(&mut self, now: Instant, bytes: u64, round_trip: Duration) {
        let (began, before) = *self.round.get_or_insert((now, 0));
        let (took, sum) = (now.saturating_duration_since(began), before + bytes);
        if took.is_zero() || took < round_trip * 2 {
            self.round = Some((began, sum));
            return;
        }
        self.round = Some((now, 0));
        if now.saturating_duration_since(*self.since.get_or_insert(now)) >= REMEMBERED {
            (self.since, self.earlier, self.highest) = (Some(now), self.highest, 0.0);
        }
        self.highest = self.highest.max(sum as f64 / took.as_secs_f64());
    }

    const fn most(&self) -> f64 {
        self.highest.max(self.earlier)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quinn::congestion::{Controller as _, ControllerFactory as _, CubicConfig};

    use super::super::{Config, Tamed};
    use super::*;

    const DATAGRAM: u64 = 1452;
    const SHORTEST: Duration = Duration::from_millis(20);
    const QUEUED: Duration = Duration::from_millis(30);

    /// A controller, the window that it begins with, and the time.
    struct Trial {
        tamed: Tamed,
        first: u64,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            let now = tokio::time::Instant::now().into_std();
            let mut cubic = CubicConfig::default();
            cubic.initial_window(100_000);
            let controller = Arc::new(Config(Arc::new(cubic))).build(now, 1452);
            let first = controller.window();
            Self { tamed: *controller.into_any().downcast::<Tamed>().unwrap(), first, now }
        }

        /// One datagram each millisecond, of which one in so many is lost.
        fn sends(&mut self, datagrams: u32, one_in: u32, round_trip: Duration) {
            for n in 1..datagrams {
                self.now += Duration::from_millis(1);
                if n % one_in == 0 {
                    self.tamed.on_congestion_event(self.now, self.now, false, DATAGRAM);
                } else {
                    self.tamed.lately.acknowledged(self.now, DATAGRAM, self.first, SHORTEST, round_trip);
                }
            }
        }

        fn is_reduced(&self) -> bool {
            self.tamed.window() < self.first
        }
    }

    #[test]
    fn few_losses_are_not_of_congestion() {
        let mut trial = Trial::new();
        trial.sends(20_000, 100, SHORTEST + TURN);
        assert!(!trial.is_reduced(), "one in a hundred");
        trial.sends(20_000, 33, SHORTEST);
        assert!(trial.is_reduced(), "one in 33");
    }

    #[test]
    fn few_losses_are_of_congestion_while_a_queue_stands() {
        let mut trial = Trial::new();
        // Two round trips, with losses.
        trial.sends(55, 20, QUEUED);
        assert!(!trial.is_reduced(), "a queue of a moment");
        trial.sends(2, 100, SHORTEST);
        trial.sends(55, 20, QUEUED);
        assert!(!trial.is_reduced(), "another queue of a moment");
        trial.sends(20, 10, QUEUED);
        assert!(trial.is_reduced(), "a queue that stands");
    }

    #[test]
    fn a_queue_beside_a_window_that_the_path_has_held_is_of_others() {
        let mut trial = Trial::new();
        // 7.26 MB/s for the shortest round trip.
        for _ in 0..200 {
            trial.now += Duration::from_millis(1);
            trial.tamed.lately.acknowledged(trial.now, 5 * DATAGRAM, trial.first, SHORTEST, SHORTEST);
        }
        let held = trial.tamed.lately.path();
        assert!((140_000..155_000).contains(&held), "{held}");
        trial.sends(1000, 100, QUEUED);
        assert!(!trial.is_reduced());
        // Others have taken most of the path for so long that it holds no more.
        for _ in 0..20 {
            trial.now += Duration::from_secs(2);
            let (now, last) = (trial.now, Duration::from_secs(1));
            trial.tamed.lately.acknowledged(now, DATAGRAM, trial.first, SHORTEST, last);
        }
        assert_eq!(trial.tamed.lately.path(), LEAST_PATH);
    }
}
