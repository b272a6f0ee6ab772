//! The `quic` link: quinn, one bidirectional stream per dialled connection.
//!
//! The server opens streams and grants the agent exactly one, the control
//! stream; the agent grants many and raises the grant as it is used, because
//! quinn takes memory for every stream it allows.

mod config;
mod congestion;
mod datagrams;
mod endpoint;
mod grant;
mod ids;
mod probe;
mod socket;
mod stream;
mod tunnel;

pub use datagrams::{Datagrams, LARGEST};
pub(crate) use endpoint::bind_udp;
pub use endpoint::{Dialer, Incoming, Listener};
pub use stream::Stream;
pub use tunnel::Tunnel;
