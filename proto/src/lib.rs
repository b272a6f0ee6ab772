//! The wire formats. All bytes of strangers are parsed here, by functions from
//! bytes to values: no sockets, no clock, no TLS.
//!
//! * Between agent and server ([`message`]): a control stream with `Hello`,
//!   `Welcome`, heartbeats and drain notices, and one stream per connection with
//!   `Dial`, `DialReply` and then raw bytes.
//! * On the frontends, for kube-apiservers: HTTP CONNECT heads ([`connect`]) and
//!   Konnectivity's gRPC packets ([`packet`]). [`authority`] is under the latter,
//!   because Rust's HTTP/2 libraries refuse the `:authority` of grpc-go.
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
