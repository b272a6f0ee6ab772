//! The wire: everything a stranger can send us is parsed here, and nothing else
//! happens here. No sockets, no clock, no TLS, so all of it can be tested and
//! fuzzed as plain functions from bytes to values.
//!
//! Two protocols share this crate:
//!
//! * **ours**, between agent and server ([`message`]): a control stream with
//!   `Hello`, `Welcome`, heartbeats and drain notices, and one stream per
//!   dialled connection that starts with `Dial` and `DialReply` and then
//!   carries raw bytes;
//! * **the kube-apiserver's**, on the frontends: HTTP CONNECT heads
//!   ([`connect`]) and Konnectivity's gRPC packets ([`packet`]), with
//!   [`authority`] under them, because grpc-go sends an `:authority` that
//!   Rust's HTTP/2 libraries refuse.
//!
//! ```text
//! server                                   agent
//!   │ ◄──────────── Hello ───────────────── │   control stream
//!   │ ───────────── Welcome ──────────────► │
//!   │ ◄──────── Ping / Pong, Drain ───────► │
//!   │                                       │
//!   │ ───────────── Dial ─────────────────► │   one stream per connection
//!   │ ◄──────────── DialReply ───────────── │
//!   │ ◄═════════ raw bytes, FIN ══════════► │
//! ```

#![warn(missing_docs)]

pub mod authority;
pub mod connect;
pub mod deframe;
mod hpack;
pub mod ident;
pub mod message;
pub mod network;
pub mod packet;
pub mod packet_kind;
pub mod refusal;
pub mod target;

/// Code generated from the `.proto` files; see `tests/generated.rs`.
#[allow(missing_docs, reason = "generated")]
#[allow(clippy::all, reason = "generated")]
#[allow(clippy::allow_attributes_without_reason, clippy::use_self, reason = "generated")]
#[allow(unreachable_pub, unused_qualifications, reason = "generated")]
mod r#gen {
    pub(crate) mod konnectivity {
        include!("gen/konnectivity.rs");
    }
    pub(crate) mod tunnel {
        include!("gen/tunnel.rs");
    }
}
