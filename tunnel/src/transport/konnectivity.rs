//! The `konnectivity` link: Konnectivity's gRPC, `/AgentService/Connect`, for fleets in which
//! one side is Konnectivity's.
//!
//! All connections of a tunnel share one gRPC call ([`crate::packets`]), without flow control
//! of their own. There is no control stream: an agent introduces itself in metadata.

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
