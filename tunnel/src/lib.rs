//! What tunnel server and tunnel agent share.
//!
//! * [`transport::Tunnel`]: one authenticated connection between the two, on
//!   QUIC or HTTP/2; [`stream::Stream`]: one dialled connection in it;
//! * [`duplex::Duplex`]: what can be relayed, [`relay::relay`]: the relay;
//!   [`socket::Socket`]: TCP, Unix and TLS sockets as such ends;
//! * [`control`]: the conversation on a tunnel's first stream;
//!   [`signs`]: when somebody is heard of, and when taken for gone;
//! * [`drain::Drain`]: how programs end, and where every task is spawned;
//! * [`metering`], [`packet_counters`], [`exposition`]: metrics;
//! * [`tls`], [`admin`], [`process`], [`logfile`], [`args`], [`backoff`]: the rest.
//!
//! No task outlives its drain, and nothing here logs an error that it also
//! returns.

#![warn(missing_docs)]

pub mod admin;
pub mod args;
pub mod backoff;
pub mod drain;
pub mod duplex;
pub mod exposition;
pub mod listen;
pub mod liveness;
pub mod logfile;
pub mod messages;
pub mod metering;
pub mod packet_counters;
pub mod packets;
pub mod process;
pub mod relay;
pub mod socket;
pub mod stream;
pub mod streams;
pub mod tls;
pub mod transport;
