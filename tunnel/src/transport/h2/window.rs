//! How much of one stream may be unread at its receiver.
//!
//! As little as keeps the network between the ends busy: in TCP everything arrives in
//! order, so a byte of another stream waits behind all that is under way, and of a reader
//! that stalls so much is kept in memory. What it takes depends on how long a round trip
//! is, which is measured when the tunnel is new and nothing else is on it.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, timeout};

/// Bytes where a round trip takes no time: the processes at both ends have to get their
/// turn, too. With half of it a download on loopback is slower by a sixth, and a byte
/// beside it waits half as long.
pub(super) const LEAST: u32 = 768 * 1024;

/// Bytes on the longest way. A hundred readers that stall hold 400 MiB.
const MOST: u32 = 4 << 20;

/// What one stream is to reach at any distance up to [`MOST`], in bytes per microsecond
/// of a round trip: 800 Mbit/s.
const RATE: u32 = 100;

/// Round trips that are measured; the shortest counts, because at the beginning of
/// a tunnel both ends may be busy with a thousand others.
const LOOKS: usize = 3;

/// How long one of them is waited for.
const LIMIT: Duration = Duration::from_secs(5);

/// The window for a path with this round trip, in bytes.
fn window(round_trip: Duration) -> u32 {
    let microseconds = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX);
    LEAST.saturating_add(RATE.saturating_mul(microseconds)).min(MOST)
}

/// Measures a new connection, which has to be driven meanwhile: the window that its
/// streams are to have, if that is another one than [`LEAST`].
///
/// Cancel safe: dropping it leaves the window as it is.
pub(super) async fn wanted(pings: Option<PingPong>) -> Option<u32> {
    let (mut pings, mut shortest) = (pings?, None);
    for _ in 0..LOOKS {
        let asked = Instant::now();
        // Without an answer there is nothing to go by; heartbeats tell what it means.
        if !matches!(timeout(LIMIT, pings.ping(Ping::opaque())).await, Ok(Ok(_))) {
            break;
        }
        let took = asked.elapsed();
        shortest = Some(shortest.map_or(took, |shortest: Duration| shortest.min(took)));
    }
    let window = window(shortest?);
    // A little more is not worth a change.
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
