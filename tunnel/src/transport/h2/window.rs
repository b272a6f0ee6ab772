//! The flow-control window of a stream.
//!
//! The window is as small as the bandwidth-delay product allows. In TCP everything arrives in
//! order, so a byte of another stream waits behind all bytes in flight, and a stalled reader
//! holds a window in memory. The round trip is measured while the tunnel is new and idle.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, timeout};

/// The window without delay, in bytes, since processes at both ends have to be scheduled.
/// With half of it a download on loopback is slower by a sixth; with more, other streams
/// wait longer.
pub(super) const LEAST: u32 = 768 * 1024;

/// The largest window, in bytes. A hundred stalled readers hold 400 MiB; with less, distant
/// tunnels are slower.
const MOST: u32 = 4 << 20;

/// Bytes per microsecond of a round trip: 800 Mbit/s for one stream, up to [`MOST`].
const RATE: u32 = 100;

/// Round trips that are measured. The shortest counts, since both ends may be busy with
/// other new tunnels.
const LOOKS: usize = 3;

/// Time for one round trip.
const LIMIT: Duration = Duration::from_secs(5);

/// The window for a path with this round trip, in bytes.
fn window(round_trip: Duration) -> u32 {
    let microseconds = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
    LEAST.saturating_add(RATE.saturating_mul(microseconds)).min(MOST)
}

/// Measures a new connection, which the caller drives meanwhile. Returns the window for its
/// streams, if it should differ from [`LEAST`]. Cancel safe: the window stays.
pub(super) async fn wanted(pings: Option<PingPong>) -> Option<u32> {
    let (mut pings, mut shortest) = (pings?, None);
    for _ in 0..LOOKS {
        let asked = Instant::now();
        // Without an answer the window stays; heartbeats judge the peer.
        if !matches!(timeout(LIMIT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            break;
        }
        let took = asked.elapsed();
        shortest = Some(shortest.map_or(took, |shortest: Duration| shortest.min(took)));
    }
    let window = window(shortest?);
    // A slightly larger window is not worth a change.
    (window > LEAST + LEAST / 4).then_some(window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_way_has_a_larger_window() {
        assert_eq!(window(Duration::ZERO), LEAST);
        assert_eq!(window(Duration::from_millis(10)), LEAST + 1_000_000);
        assert_eq!(window(Duration::from_millis(60)), MOST);
        assert_eq!(window(Duration::MAX), MOST);
    }
}
