//! Congestion control: quinn's Cubic, with one datagram more where nothing is
//! heard of the peer, never more under way than keeps the path busy, and losses
//! that are not of congestion left out.
//!
//! When the network is cut, what was sent last fills the congestion window, and
//! nothing new goes out: only probes do, after pauses that double. So a cut of half
//! a minute would be noticed to be over after up to half a minute more. A heartbeat
//! every second costs nothing that matters and shows it at once.
//!
//! Where nothing is lost, Cubic grows without an end, and what is under way beyond what
//! the path carries in one round trip only waits somewhere, with everything that comes
//! behind it: a byte of another stream as well.
//!
//! Where a little is lost whatever is sent (radio, long ways, a worn cable), Cubic takes
//! each loss for congestion, and one in a hundred leaves it 0.7 MB/s at 20 ms. So a loss
//! is no reason to slow down as long as losses are few and nothing waits on the path.
//! Many are one however short the round trip is, which bounds what a queue that is too
//! short to be seen loses; and the limit is where BBR has it (2 %, version 2 and later).

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// Room for a datagram, and for what quinn wants to be left over.
const ROOM: u64 = 2 * 1500;

/// Bytes that may be under way on the shortest path: at both ends processes have to
/// get their turn before an acknowledgement comes back.
const LEAST_UNDER_WAY: u64 = 512 * 1024;

/// What a path is kept busy with, in bytes per microsecond of its shortest round trip:
/// 2 Gbit/s at any distance, and more where it is short.
const RATE: u64 = 250;

/// What may be under way on a path with this shortest round trip.
fn most_under_way(round_trip: Duration) -> u64 {
    let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    LEAST_UNDER_WAY.saturating_add(RATE.saturating_mul(microseconds))
}

/// One in so many bytes may be lost without congestion.
const FEW: u64 = 50;

/// Losses that are always few, in datagrams: a single one early on says nothing.
const A_FEW: u64 = 8;

/// Losses are counted over so many windows, and over this many bytes at least.
const WINDOWS: u64 = 4;
const LEAST_COUNTED: u64 = 1 << 20;

/// By how much a round trip may be above the shortest while nothing waits on the path:
/// a quarter of it, and what it takes processes to get their turn.
const TURN: Duration = Duration::from_millis(5);

/// What became of the bytes sent lately.
#[derive(Debug, Clone, Copy, Default)]
struct Lately {
    acknowledged: u64,
    lost: u64,
    /// Round trips are so long that something waits on the path.
    queued: bool,
}

impl Lately {
    fn acknowledged(&mut self, bytes: u64, window: u64, (shortest, now): (Duration, Duration)) {
        self.acknowledged += bytes;
        self.queued = now > shortest + TURN.max(shortest / 4);
        if self.acknowledged + self.lost > LEAST_COUNTED.max(window.saturating_mul(WINDOWS)) {
            self.acknowledged /= 2;
            self.lost /= 2;
        }
    }

    /// Whether what is lost says that the path is full.
    fn is_congested(&self, datagram: u64) -> bool {
        let few = (self.acknowledged + self.lost) / FEW;
        self.queued || self.lost > few.max(A_FEW * datagram)
    }
}

/// Makes [`Tamed`] controllers.
#[derive(Debug, Default)]
pub(super) struct Config(Arc<CubicConfig>);

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::clone(&self.0), now, mtu);
        let most = most_under_way(Duration::ZERO);
        let (datagram, lately) = (mtu.into(), Lately::default());
        Box::new(Tamed { cubic, datagram, lately, in_flight: 0, most, once: Arc::default() })
    }
}

/// See the module. Clones share the nudge.
#[derive(Debug, Clone)]
struct Tamed {
    cubic: Cubic,
    /// Bytes of the largest datagram.
    datagram: u64,
    lately: Lately,
    /// Bytes that were sent and neither acknowledged nor lost.
    in_flight: u64,
    /// Bytes that may be.
    most: u64,
    /// The next datagram may go whatever the window says.
    once: Arc<AtomicBool>,
}

/// Lets the connection's next datagram go, whatever its window says.
pub(super) fn nudge(connection: &quinn::Connection) {
    if let Some(tamed) = of(connection) {
        tamed.once.store(true, Ordering::Relaxed);
    }
}

/// The controller as it is now: a new path has a new one.
fn of(connection: &quinn::Connection) -> Option<Box<Tamed>> {
    // Always ours.
    connection.congestion_state().into_any().downcast().ok()
}

impl Controller for Tamed {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        if self.once.load(Ordering::Relaxed) {
            self.once.store(false, Ordering::Relaxed);
        }
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.most = most_under_way(rtt.min());
        // A window that is not used says nothing of what the path carries, and is not to
        // grow: it would have to shrink by as much before a loss has an effect.
        let is_unused = self.cubic.window() >= self.most;
        self.lately.acknowledged(bytes, self.window(), (rtt.min(), rtt.get()));
        self.cubic.on_ack(now, sent, bytes, app_limited || is_unused, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.in_flight = in_flight;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.lately.lost += lost;
        // Without a loss it is a router that says so.
        if persistent || lost == 0 || self.lately.is_congested(self.datagram) {
            self.cubic.on_congestion_event(now, sent, persistent, lost);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.datagram = mtu.into();
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        let window = self.cubic.window().min(self.most);
        if self.once.load(Ordering::Relaxed) { window.max(self.in_flight + ROOM) } else { window }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_under_way_than_keeps_the_path_busy() {
        let now = tokio::time::Instant::now().into_std();
        let mut wide = CubicConfig::default();
        wide.initial_window(100 << 20);
        let mut controller = Arc::new(Config(Arc::new(wide))).build(now, 1452);
        assert_eq!(controller.window(), LEAST_UNDER_WAY);
        let mut tamed = controller.clone_box().into_any().downcast::<Tamed>().unwrap();
        tamed.most = most_under_way(Duration::from_millis(20));
        assert_eq!(tamed.window(), LEAST_UNDER_WAY + 5_000_000);
        assert_eq!(most_under_way(Duration::MAX), u64::MAX);
        // A loss counts as ever.
        let lost = now + Duration::from_secs(1);
        for _ in 0..20 {
            controller.on_congestion_event(lost, lost, true, 1452);
        }
        assert!(controller.window() < LEAST_UNDER_WAY);
    }

    const DATAGRAM: u64 = 1452;
    const SHORTEST: Duration = Duration::from_millis(20);

    /// The window of a controller, and of one that has seen 20,000 datagrams with this
    /// round trip, of which one in so many was lost.
    fn windows(one_in: u32, round_trip: Duration) -> (u64, u64) {
        let now = tokio::time::Instant::now().into_std();
        let mut controller = Arc::<Config>::default().build(now, 1452);
        let window = controller.window();
        let mut tamed = *controller.clone_box().into_any().downcast::<Tamed>().unwrap();
        for n in 1..20_000 {
            if n % one_in == 0 {
                let sent = now + Duration::from_millis(n.into());
                tamed.on_congestion_event(sent, sent, false, DATAGRAM);
            } else {
                tamed.lately.acknowledged(DATAGRAM, window, (SHORTEST, round_trip));
            }
        }
        controller = Box::new(tamed);
        (window, controller.window())
    }

    #[test]
    fn few_losses_are_not_of_congestion() {
        let (before, after) = windows(100, SHORTEST + TURN);
        assert_eq!(after, before, "one in a hundred");
        let (before, after) = windows(33, SHORTEST);
        assert!(after < before, "one in 33");
        let (before, after) = windows(100, SHORTEST + TURN * 2);
        assert!(after < before, "one in a hundred, and a queue");
    }

    #[test]
    fn what_routers_and_silence_say_always_counts() {
        let now = tokio::time::Instant::now().into_std();
        let mut controller = Arc::<Config>::default().build(now, 1452);
        let window = controller.window();
        controller.on_congestion_event(now, now, false, DATAGRAM);
        assert_eq!(controller.window(), window, "a single loss");
        controller.on_congestion_event(now, now, false, 0);
        let marked = controller.window();
        assert!(marked < window, "a mark");
        let later = now + Duration::from_secs(1);
        controller.on_congestion_event(later, later, true, DATAGRAM);
        assert!(controller.window() < marked, "persistent");
    }

    #[test]
    fn a_nudge_lets_one_datagram_go_when_the_window_is_full() {
        let now = tokio::time::Instant::now().into_std();
        let mut controller = Arc::<Config>::default().build(now, 1452);
        let window = controller.window();
        controller.on_sent(now, 10 * window, 1);
        let clone = controller.clone_box().into_any().downcast::<Tamed>().unwrap();
        assert_eq!(controller.window(), window);
        clone.once.store(true, Ordering::Relaxed);
        assert_eq!(controller.window(), 10 * window + ROOM);
        controller.on_sent(now, 1452, 2);
        assert_eq!(controller.window(), window);
        // An empty connection is not held back by it.
        controller.on_end_acks(now, 0, false, Some(2));
        clone.once.store(true, Ordering::Relaxed);
        assert_eq!(controller.window(), window.max(ROOM));
    }
}
