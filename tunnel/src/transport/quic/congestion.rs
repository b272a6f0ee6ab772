//! Congestion control: quinn's Cubic with three changes.
//!
//! * **Nudge.** In a blackout, unacknowledged data fills the congestion window, and only
//!   QUIC's probes go out, after pauses that double. The end of a blackout of half a minute
//!   would show up to half a minute late. A nudge lets one heartbeat bypass the window.
//! * **Limit.** Without loss, Cubic's window grows without end. Bytes in flight beyond the
//!   bandwidth-delay product wait in queues, and delay other streams. The window is limited
//!   by the shortest round trip.
//! * **Random loss.** Cubic takes each loss for congestion: on a path that loses one datagram
//!   in a hundred it reaches 0.7 MB/s at 20 ms. Losses below 2 % are ignored unless
//!   the round-trip time shows a standing queue and the window exceeds the path. The
//!   threshold is that of BBR, version 2 and later; above it losses count even without a
//!   queue, since a short queue does not show.

mod lately;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

use lately::Lately;

use super::datagrams::LARGEST;

/// Datagrams that a nudge adds to the window, beside a search for larger ones, of which quinn tells a
/// controller nothing: one, and the margin that quinn requires. With less, nothing goes; with more, each
/// heartbeat of a blackout adds to a full queue.
const ROOM: u64 = 2;

/// Bytes in flight on a path without delay. An acknowledgement waits for processes at both
/// ends to be scheduled. Fewer slow transfers on short paths: 256 KiB by a tenth. More build
/// queues: 512 KiB makes the p99 of a round trip beside a download longer by a
/// sixth to two fifths.
const LEAST_IN_FLIGHT: u64 = 384 * 1024;

/// Further bytes in flight per microsecond of the shortest round trip: 2 Gbit/s. Less slows
/// distant tunnels; more builds queues.
const RATE: u64 = 250;

/// Bytes from which a packet is full. QUIC's smallest datagrams have 1,200, of which quinn leaves unused what the head of
/// a stream's frame may take, 25. More, and full packets prove nothing; fewer, and others prove too much.
const FULL: u64 = 1175;

/// Most bytes in flight on a path with this shortest round trip.
fn most_in_flight(round_trip: Duration) -> u64 {
    let microseconds = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    LEAST_IN_FLIGHT.saturating_add(RATE.saturating_mul(microseconds))
}

/// Makes [`Tamed`] controllers.
#[derive(Debug, Default)]
pub(super) struct Config(Arc<CubicConfig>);

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::clone(&self.0), now, mtu);
        let most = most_in_flight(Duration::ZERO);
        let (datagram, lately) = (mtu.into(), Lately::default());
        Box::new(Tamed { cubic, datagram, lately, in_flight: 0, most, path: Arc::default() })
    }
}

/// The part of the controller of one path that users of the connection see.
#[derive(Debug, Default)]
struct Path {
    /// The next datagram bypasses the window.
    once: AtomicBool,
    /// All that follows bypasses the window.
    always: AtomicBool,
    /// Packets that the peer has acknowledged.
    acknowledged: AtomicU64,
    /// Full packets, or batches of them, that were sent.
    full_sent: AtomicU64,
    /// Full packets that the peer has acknowledged.
    full_acknowledged: AtomicU64,
    /// How often the bytes of one or more were found lost.
    full_lost: AtomicU64,
}

impl Path {
    /// A batch of packets was sent, of so many bytes.
    fn sent(&self, bytes: u64) {
        if bytes >= FULL {
            count(&self.full_sent);
        }
    }

    /// A packet of so many bytes was acknowledged.
    fn arrived(&self, bytes: u64) {
        count(&self.acknowledged);
        if bytes >= FULL {
            count(&self.full_acknowledged);
        }
    }

    /// So many bytes of packets were found lost.
    fn lost(&self, bytes: u64) {
        if bytes >= FULL {
            count(&self.full_lost);
        }
    }
}

/// Counts one more. One writer at a time: quinn holds the connection's lock.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Packets that fill a datagram, counted from the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct FullPackets {
    /// Batches that were sent.
    pub(crate) sent: u64,
    /// Those that the peer has acknowledged.
    pub(crate) acknowledged: u64,
    /// How often packets of as many bytes together were found lost, because the peer has acknowledged a later one.
    pub(crate) lost: u64,
}

/// Counts the packets that the peer acknowledges. It follows an agent's connection for life,
/// since only servers see their peer on another path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged(Arc<Path>);

impl Acknowledged {
    pub(super) fn on(connection: &quinn::Connection) -> Self {
        Self(of(connection).map(|tamed| tamed.path).unwrap_or_default())
    }

    /// Packets acknowledged so far.
    pub(crate) fn packets(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn full(&self) -> FullPackets {
        let Path { full_sent, full_acknowledged, full_lost, .. } = &*self.0;
        let [sent, acknowledged, lost] =
            [full_sent, full_acknowledged, full_lost].map(|counter| counter.load(Ordering::Relaxed));
        FullPackets { sent, acknowledged, lost }
    }
}

/// The controller. Clones share the path.
#[derive(Debug, Clone)]
struct Tamed {
    cubic: Cubic,
    /// Bytes of the largest datagram.
    datagram: u64,
    lately: Lately,
    /// Bytes sent and neither acknowledged nor lost.
    in_flight: u64,
    /// The limit of `in_flight`, in bytes.
    most: u64,
    path: Arc<Path>,
}

/// Lets the connection's next datagram bypass the congestion window.
pub(super) fn nudge(connection: &quinn::Connection) {
    if let Some(tamed) = of(connection) {
        tamed.path.once.store(true, Ordering::Relaxed);
    }
}

/// Lets all that follows path the window, of a connection that is closed: a close frame. quinn holds it
/// back like data while data waits, and later a peer hears of a reset instead of the reason.
pub(super) fn lift(connection: &quinn::Connection) {
    if let Some(tamed) = of(connection) {
        tamed.path.always.store(true, Ordering::Relaxed);
    }
}

/// The current controller. A new path has a new one.
fn of(connection: &quinn::Connection) -> Option<Box<Tamed>> {
    connection.congestion_state().into_any().downcast().ok()
}

impl Controller for Tamed {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.in_flight += bytes;
        if self.path.once.load(Ordering::Relaxed) {
            self.path.once.store(false, Ordering::Relaxed);
        }
        self.path.sent(bytes);
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.path.arrived(bytes);
        self.most = most_in_flight(rtt.min());
        // A window beyond the limit is unused and must not grow: it would have to shrink by
        // as much before a loss has an effect.
        let is_unused = self.cubic.window() >= self.most;
        self.lately.acknowledged(now, bytes, self.window(), rtt.min(), rtt.get());
        self.cubic.on_ack(now, sent, bytes, app_limited || is_unused, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.in_flight = in_flight;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.lately.lost += lost;
        self.path.lost(lost);
        // Without a loss, a router has marked congestion (ECN).
        if persistent || lost == 0 || self.lately.is_congested(now, self.window(), self.datagram) {
            self.lately.reduced();
            self.cubic.on_congestion_event(now, sent, persistent, lost);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.datagram = mtu.into();
        self.cubic.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        if self.path.always.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        let window = self.cubic.window().min(self.most);
        if !self.path.once.load(Ordering::Relaxed) {
            return window;
        }
        window.max(self.in_flight + ROOM * self.datagram + u64::from(LARGEST))
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
    fn no_more_is_in_flight_than_keeps_the_path_busy() {
        let now = tokio::time::Instant::now().into_std();
        let mut wide = CubicConfig::default();
        wide.initial_window(100 << 20);
        let mut controller = Arc::new(Config(Arc::new(wide))).build(now, 1452);
        assert_eq!(controller.window(), LEAST_IN_FLIGHT);
        let mut tamed = controller.clone_box().into_any().downcast::<Tamed>().unwrap();
        tamed.most = most_in_flight(Duration::from_millis(20));
        assert_eq!(tamed.window(), LEAST_IN_FLIGHT + 5_000_000);
        assert_eq!(most_in_flight(Duration::MAX), u64::MAX);
        // A loss counts as ever.
        let lost = now + Duration::from_secs(1);
        for _ in 0..20 {
            controller.on_congestion_event(lost, lost, true, 1452);
        }
        assert!(controller.window() < LEAST_IN_FLIGHT);
    }

    const DATAGRAM: u64 = 1452;

    #[test]
    fn full_packets_are_counted_apart() {
        let now = tokio::time::Instant::now().into_std();
        let mut controller = Arc::<Config>::default().build(now, 1200);
        let path = controller.clone_box().into_any().downcast::<Tamed>().unwrap().path;
        let seen = Acknowledged(Arc::clone(&path));
        for (bytes, full) in [(40, 0), (1174, 0), (1175, 1), (1200, 2), (1452, 3)] {
            controller.on_sent(now, bytes, 1);
            path.arrived(bytes);
            controller.on_congestion_event(now, now, false, bytes);
            assert_eq!(seen.full(), FullPackets { sent: full, acknowledged: full, lost: full }, "{bytes}");
        }
        assert_eq!(seen.packets(), 5);
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
        for datagram in [1452, 8952] {
            let mut controller = Arc::<Config>::default().build(now, 1200);
            controller.on_mtu_update(datagram);
            let window = controller.window();
            controller.on_sent(now, 10 * window, 1);
            let clone = controller.clone_box().into_any().downcast::<Tamed>().unwrap();
            assert_eq!(controller.window(), window);
            clone.path.once.store(true, Ordering::Relaxed);
            let room = controller.window() - 10 * window;
            assert!(room > u64::from(datagram) + u64::from(LARGEST), "{room}");
            controller.on_sent(now, datagram.into(), 2);
            assert_eq!(controller.window(), window);
            // An empty connection is not held back by it.
            controller.on_end_acks(now, 0, false, Some(2));
            clone.path.once.store(true, Ordering::Relaxed);
            assert_eq!(controller.window(), window.max(room));
            // A close frame goes whatever is under way.
            clone.path.always.store(true, Ordering::Relaxed);
            assert_eq!(controller.window(), u64::MAX);
        }
    }
}
