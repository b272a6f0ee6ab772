//! Moves bytes between tunnel server and tunnel agent.
//!
//! * [`transport::Tunnel`]: one authenticated connection between the two, on
//!   QUIC or HTTP/2; [`stream::Stream`]: one dialled connection in it;
//! * [`duplex::Duplex`]: what can be relayed, [`relay::relay`]: the relay;
//!   [`socket::Socket`]: TCP, Unix and TLS sockets as such ends;
//! * [`control`]: the conversation on a tunnel's first stream;
//!   [`signs`]: when somebody is heard of, and when taken for gone;
//! * [`drain::Drain`]: the orderly end of a program; spawns every task;
//! * [`tls`], [`listen`]: certificates, listeners, options of sockets.
//!
//! No task outlives its drain. No function logs an error that it also returns.
//! Flags, metrics and logging are the programs': see the crate `tunnel-program`.

#![warn(missing_docs)]

pub mod control;
pub mod drain;
pub mod duplex;
pub mod listen;
pub mod packet_counters;
pub mod packets;
pub mod relay;
pub mod signs;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod transport;
