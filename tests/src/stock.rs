//! Konnectivity's own programs, as the wire shows them.
//!
//! Both of them are the other side of our programs when a cluster moves from
//! Konnectivity: a [`StockAgent`] on our server, a [`StockServer`] for our
//! agent. Tests say packet by packet what they send and expect; a [`GoAgent`]
//! does by itself what the real agent does, its weaknesses included.
//!
//! The paths, fields, limits and texts here are written down by hand and not
//! taken from our own code, which is what they judge.

mod agent;
mod automatic;
mod keepalive;
mod server;

pub use agent::{Metadata, NotServed, StockAgent, alpn};
pub use automatic::{GoAgent, GoSettings};
pub use server::{AgentCall, Manners, StockServer};

/// The method that agents call. There is no proto package in front of it.
pub const CONNECT_PATH: &str = "/AgentService/Connect";

/// The most that our side may put into one DATA packet.
pub const LARGEST_DATA: usize = 32 * 1024;
