//! HTTP/2 under the call: names, settings and pings.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, interval_at, timeout};

/// Prefix of an agent's `authorization` metadata. Case-sensitive, as at Konnectivity's
/// server.
pub(super) const BEARER: &str = "Bearer ";

/// The gRPC path of the agents' one method.
pub(super) const CONNECT_PATH: &str = "/AgentService/Connect";

/// Flow-control window of a call, in bytes. Smaller slows distant tunnels; larger queues more
/// in front of every connection when the stream is read slower.
pub(super) const CALL_WINDOW: u32 = 1 << 20;

/// Flow-control window of a connection, which carries one call.
pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;

/// Largest frame that peers may send, in bytes.
pub(super) const FRAME: u32 = 64 * 1024;

/// Bytes of a call that wait for the TLS connection.
pub(super) const SEND_BUFFER: usize = 512 * 1024;

/// Time for the answer to a ping.
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

/// Pings the peer, and waits until an answer fails to come. Cancel safe.
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
