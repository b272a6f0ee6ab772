//! Konnectivity's own programs, as the wire shows them.
//!
//! Both of them are the other side of our programs when a cluster moves from
//! Konnectivity: a [`StockAgent`] on our server, a [`StockServer`] for our
//! agent. Tests script their packets one by one; a [`GoAgent`] behaves as the real
//! agent does, its defects included.
//!
//! The paths, fields, limits and texts here are written by hand and not taken from
//! our own code, because they judge it.

mod agent;
mod automatic;
mod keepalive;
mod server;

pub use agent::{Metadata, NotServed, StockAgent, alpn};
pub use automatic::{GoAgent, GoSettings};
pub use server::{AgentCall, Manners, StockServer};

/// The path of the agents' method. Konnectivity's proto file has no package.
pub const CONNECT_PATH: &str = "/AgentService/Connect";

/// The largest payload of a DATA packet of ours.
pub const LARGEST_DATA: usize = 32 * 1024;
