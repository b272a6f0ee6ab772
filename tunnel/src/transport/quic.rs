//! The `quic` link: quinn, one bidirectional stream per dialled connection.
//!
//! The server opens streams. The agent opens one, the control stream. How many streams the
//! server may open is in `grant`.

mod config;
mod congestion;
mod datagrams;
mod endpoint;
mod grant;
mod ids;
mod probe;
mod socket;
mod stream;
mod taken;
mod tunnel;

pub(crate) use congestion::{Acknowledged, FullPackets};
pub use datagrams::{Datagrams, LARGEST};
pub(crate) use endpoint::bind_udp;
pub use endpoint::{Dialer, Incoming, Listener, receive_buffer};
pub use stream::Stream;
pub use tunnel::Tunnel;
