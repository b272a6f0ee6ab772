//! HTTP/2 under the call: its settings, and pings.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, interval_at, timeout};

/// Unread bytes of one call: what may be on its way, and what everybody waits
/// behind when the stream is read slower.
pub(super) const CALL_WINDOW: u32 = 1 << 20;

/// The same for a connection, which carries one call.
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;

/// Frames that peers may send.
pub(super) const FRAME: u32 = 64 * 1024;

/// Bytes that wait for the TLS connection.
pub(super) const SEND_BUFFER: usize = 512 * 1024;

/// How long the answer may take.
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// Settings that both sides share. A macro, because h2's two builders have no common trait.
macro_rules! builder {
    ($side:ident) => {
        $side::Builder::new()
            .initial_window_size(http2::CALL_WINDOW)
            .initial_connection_window_size(http2::CONNECTION_WINDOW)
            .max_frame_size(http2::FRAME)
            .max_send_buffer_size(http2::SEND_BUFFER)
            .max_header_list_size(32 * 1024)
    };
}
pub(super) use builder;

/// Ready when the peer does not answer.
pub(super) async fn silence(mut ping: PingPong, every: Duration) {
    let mut beat = interval_at(Instant::now() + every, every);
    loop {
        beat.tick().await;
        match timeout(PONG_LIMIT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
