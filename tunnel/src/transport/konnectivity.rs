//! The `konnectivity` link: Konnectivity's gRPC, `/AgentService/Connect`, for
//! fleets in which one side is not ours yet.
//!
//! All connections of a tunnel share one gRPC call ([`crate::packets`]), so
//! what one stream per connection gives (see the other links) cannot be had
//! here. There is no control stream: an agent says what it is in metadata.

mod agent;
mod call;
mod http2;
mod server;
mod tunnel;

pub(super) use agent::connect;
pub use call::BearerError;
pub(super) use call::{Call, Status};
pub(super) use server::accept;
pub use tunnel::Tunnel;

/// How the value of an agent's `authorization` metadata begins. The case counts, as it does
/// for Konnectivity's server.
const BEARER: &str = "Bearer ";

/// The gRPC path of the agents' one method.
const CONNECT_PATH: &str = "/AgentService/Connect";
