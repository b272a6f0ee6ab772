//! Many connections on one stream of Konnectivity's packets.
//!
//! The packets have no flow control of a connection's own: whoever does not
//! read would stop everybody else if the shared stream waited for them. So the
//! stream's reader never waits for anybody. Each connection has a queue, bounded
//! in bytes. While one fills up the stream is read slower, by a bounded delay
//! that holds its sender back and that others can live with; one that overflows
//! all the same is closed, alone, with its reason. Towards the peer
//! each connection has a small buffer, served in turn; packets that open and
//! close connections go ahead of data, except the one that closes a connection,
//! which follows its last byte.
//!
//! Used between a server and an agent when one of them is Konnectivity's. The other
//! links do not need it: there a connection has a stream of its own.

mod conn;
mod data;
mod dial;
mod driver;
mod intake;
mod member;
mod mux;
mod outgoing;
mod receiving;
mod sending;

pub use conn::Limits;
pub use data::{DATA_HEADS, DATA_LEN, data_packet};
pub use dial::PacketDial;
pub use driver::{Counters, Halves};
pub use member::Member;
pub use mux::{Mux, Role};

#[cfg(test)]
mod tests;
