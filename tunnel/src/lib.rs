//! Moves bytes between tunnel server and tunnel agent.
//!
//! * [`transport::Tunnel`]: one authenticated connection between the two, on any link;
//!   [`stream::Stream`]: one dialled connection in it;
//! * [`duplex::Duplex`]: an end of a relayed connection, [`relay::relay`]: the relay;
//!   [`socket::Socket`]: TCP, Unix and TLS sockets as such ends;
//! * [`liveness`]: whether a tunnel's peer lives; [`messages`]: the control stream;
//! * [`drain::Drain`]: the orderly end of a program; spawns every task;
//! * [`tls`], [`listen`]: certificates, listeners, options of sockets.
//!
//! No task outlives its drain. No function logs an error that it also returns.
//! Flags, metrics and logging are in the crate `tunnel-program`.

#![warn(missing_docs)]

pub mod drain;
pub mod duplex;
mod h2_error;
pub mod listen;
pub mod liveness;
pub mod messages;
pub mod packet_counters;
pub mod packets;
pub mod relay;
pub mod socket;
pub mod stream;
pub mod streams;
pub mod tls;
pub mod transport;
