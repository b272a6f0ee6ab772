//! Tunnels, whichever link they use: [`tunnel`](Tunnel) lists the links.
//!
//! Agents dial tunnels, servers open streams in them. A link offers: a dial that yields a
//! stream or a named failure ([`Tunnel::dial`], servers), the next dial of the server, to
//! be answered once ([`Tunnel::accept`], agents), an end, and signs of its peer's life for
//! [`liveness`](crate::liveness).

mod arrival;
mod dial;
pub(crate) mod error;
pub mod h2;
mod introduction;
pub mod konnectivity;
pub(crate) mod link;
pub mod quic;
mod tunnel;

pub use arrival::{Arrived, Chain, Introduction, NotAdmitted, accept_tcp};
pub use dial::{IncomingDial, Reached};
pub use error::{DialFailure, HandshakeError, TunnelClosed};
pub use introduction::{Greeted, GreetingError, Opened, open_on_tcp};
pub use link::{Link, link_on_tcp};
pub(crate) use tunnel::Proof;
pub use tunnel::Tunnel;
