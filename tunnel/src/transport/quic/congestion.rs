//! Congestion control: quinn's Cubic, with one datagram more where nothing is
//! heard of the peer, and never more under way than keeps the path busy.
//!
//! When the network is cut, what was sent last fills the congestion window, and
//! nothing new goes out: only probes do, after pauses that double. So a cut of half
//! a minute would be noticed to be over after up to half a minute more. A heartbeat
//! every second costs nothing that matters and shows it at once.
//!
//! Where nothing is lost, Cubic grows without an end, and what is under way beyond what
//! the path carries in one round trip only waits somewhere, with everything that comes
//! behind it: a byte of another stream as well.

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

/// Makes [`Tamed`] controllers.
#[derive(Debug, Default)]
pub(super) struct Config(Arc<CubicConfig>);

impl ControllerFactory for Config {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let cubic = Cubic::new(Arc::clone(&self.0), now, mtu);
        Box::new(Tamed { cubic, in_flight: 0, most: most_under_way(Duration::ZERO), once: Arc::default() })
    }
}

/// See the module. Clones share the nudge.
#[derive(Debug, Clone)]
struct Tamed {
    cubic: Cubic,
    /// Bytes that were sent and neither acknowledged nor lost.
    in_flight: u64,
    /// Bytes that may be.
    most: u64,
    /// The next datagram may go whatever the window says.
    once: Arc<AtomicBool>,
}

/// Lets the connection's next datagram go, whatever its window says.
pub(super) fn nudge(connection: &quinn::Connection) {
    // Always ours; asked for each time, because a new path has a new controller.
    if let Ok(tamed) = connection.congestion_state().into_any().downcast::<Tamed>() {
        tamed.once.store(true, Ordering::Relaxed);
    }
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
        self.cubic.on_ack(now, sent, bytes, app_limited || is_unused, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.in_flight = in_flight;
        self.cubic.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost: u64) {
        self.cubic.on_congestion_event(now, sent, persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
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
