//! Many connections on one stream of Konnectivity's packets.
//!
//! The packets have no flow control per connection, so the stream's reader never waits for
//! a connection. Each connection has a queue, bounded in bytes. While a queue fills up, the
//! stream is read slower, by a bounded delay; a connection whose queue overflows is closed
//! alone. Towards the peer, connections have small buffers that are served in turn. Packets
//! that open and close connections go ahead of data, but a connection's close follows its
//! last byte.
//!
//! Used between a server and an agent when one of them is Konnectivity's. On the other
//! links a connection has a stream of its own.

mod conn;
mod data;
mod dial;
mod driver;
mod intake;
mod member;
mod mux;
mod receiving;
mod sending;
mod unfinished;

pub use conn::Limits;
pub use data::{DATA_HEADS, DATA_LEN, data_packet};
pub use dial::PacketDial;
pub use driver::{Counters, Halves};
pub use member::Member;
pub use mux::{Mux, Role};
pub use unfinished::Unfinished;

#[cfg(test)]
mod tests;
