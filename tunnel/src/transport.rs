//! Tunnels, whichever link they use: the place that lists the links.
//!
//! Agents dial tunnels, servers open streams in them. A link offers: a dial that yields a
//! stream or a named failure ([`Tunnel::dial`], servers), the next dial of the server, to
//! be answered once ([`Tunnel::accept`], agents), an end, and signs of its peer's life for
//! [`liveness`](crate::liveness).

mod arrival;
mod dial;
pub mod h2;
mod introduction;
pub mod konnectivity;
pub mod quic;

use std::net::SocketAddr;
use std::time::Duration;

use tunnel_proto::message::Dial;

use crate::stream::Stream;

pub use arrival::{Arrived, Introduction, NotAdmitted, accept_tcp};
pub use dial::{Asked, DialFailure};
pub use introduction::{Greeted, GreetingError, Opened, open_on_tcp};

/// How long each end may take for its part of the greeting. Below it, agents on slow
/// networks are turned away; above it, strangers hold their place for longer.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// The protocol under a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// HTTP/2 over TLS over TCP.
    H2,
    /// QUIC.
    Quic,
    /// Konnectivity's gRPC.
    Konnectivity,
}

impl Link {
    /// Every link, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::H2, Self::Quic, Self::Konnectivity];

    /// The name in flags, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
            Self::Konnectivity => "konnectivity",
        }
    }
}

/// A tunnel that could not be established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The configuration does not allow it.
    #[error("{0}")]
    Config(String),
    /// There was no connection, or it was lost.
    #[error("{0}")]
    Lost(String),
    /// One side did not accept the other's certificate, or did not speak TLS.
    #[error("tls: {0}")]
    Tls(String),
    /// The peer refused the tunnel.
    #[error("{0}")]
    Rejected(String),
    /// The handshake took too long.
    #[error("timed out")]
    Timeout,
}

impl HandshakeError {
    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Lost(_) => "lost",
            Self::Tls(_) => "tls",
            Self::Rejected(_) => "rejected",
            Self::Timeout => "timeout",
        }
    }
}

/// The link of a TLS connection by its ALPN protocol, on either side.
///
/// # Errors
/// When the peers have agreed on no protocol of ours.
pub fn link_on_tcp(tls: &rustls::CommonState) -> Result<Link, HandshakeError> {
    match tls.alpn_protocol() {
        Some(crate::tls::ALPN) => Ok(Link::H2),
        Some(b"h2") => Ok(Link::Konnectivity),
        Some(_) | None => Err(HandshakeError::Tls("the peer does not speak this protocol".to_owned())),
    }
}

/// One authenticated connection between an agent and a server. Clones are the same tunnel.
#[derive(Debug, Clone)]
pub enum Tunnel {
    /// On HTTP/2.
    H2(h2::Tunnel),
    /// On QUIC.
    Quic(quic::Tunnel),
    /// On Konnectivity's gRPC.
    Konnectivity(konnectivity::Tunnel),
}

/// How a link shows that its peer lives.
pub(crate) enum Proof {
    /// Datagrams and acknowledgements of QUIC, which outlive a blackout.
    Datagrams(quic::Tunnel),
    /// The peer's messages, or the end of the TCP connection.
    Messages,
}

/// Why a tunnel is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TunnelClosed(pub String);

impl Tunnel {
    /// Which link it uses.
    pub const fn link(&self) -> Link {
        match self {
            Self::H2(_) => Link::H2,
            Self::Quic(_) => Link::Quic,
            Self::Konnectivity(_) => Link::Konnectivity,
        }
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        match self {
            Self::H2(tunnel) => tunnel.remote(),
            Self::Quic(tunnel) => tunnel.remote(),
            Self::Konnectivity(tunnel) => tunnel.remote(),
        }
    }

    /// Servers: asks the agent to connect to a target. `opened` is called once a stream
    /// for it is open. On links whose connections share one stream, a dial that the agent
    /// has not read after `untaken` is taken back and fails with [`DialFailure::Busy`].
    ///
    /// Waits as long as the agent takes; the caller limits the time. Cancel safe: dropping
    /// the future cancels the dial at the agent.
    ///
    /// # Errors
    /// See [`DialFailure`].
    pub async fn dial(
        &self,
        dial: &Dial,
        untaken: Option<Duration>,
        opened: impl FnOnce(),
    ) -> Result<Stream, DialFailure> {
        match self {
            Self::H2(tunnel) => dial::on_stream(tunnel.open().await?, dial, opened).await,
            Self::Quic(tunnel) => dial::on_stream(tunnel.open().await?, dial, opened).await,
            Self::Konnectivity(tunnel) => {
                opened();
                tunnel.dial(dial.target.to_string(), untaken).await
            }
        }
    }

    /// Agents: the next dial of the server. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<Asked, TunnelClosed> {
        match self {
            Self::H2(tunnel) => tunnel.accept().await.map(Asked::on_stream),
            Self::Quic(tunnel) => tunnel.accept().await.map(Asked::on_stream),
            Self::Konnectivity(tunnel) => tunnel.accept().await.map(Asked::by_packet),
        }
    }

    /// Ends the tunnel and all its streams at once.
    pub fn close(&self, why: &str) {
        match self {
            Self::H2(tunnel) => tunnel.close(why),
            Self::Quic(tunnel) => tunnel.close(why),
            Self::Konnectivity(tunnel) => tunnel.close(why),
        }
    }

    /// Waits until the tunnel is over. Cancel safe.
    pub async fn closed(&self) -> TunnelClosed {
        match self {
            Self::H2(tunnel) => tunnel.closed().await,
            Self::Quic(tunnel) => tunnel.closed().await,
            Self::Konnectivity(tunnel) => tunnel.closed().await,
        }
    }

    /// Whether all connections share one stream, so that one of them can hold up a dial.
    pub const fn shares_a_stream(&self) -> bool {
        match self {
            Self::H2(_) | Self::Quic(_) => false,
            Self::Konnectivity(_) => true,
        }
    }

    /// Whether the peer has read nothing for a while, so that other agents are dialled
    /// first. Only a shared stream can come to that.
    pub fn is_stuck(&self) -> bool {
        match self {
            Self::H2(_) | Self::Quic(_) => false,
            Self::Konnectivity(tunnel) => tunnel.is_stuck(),
        }
    }

    pub(crate) fn proof(&self) -> Proof {
        match self {
            Self::Quic(tunnel) => Proof::Datagrams(tunnel.clone()),
            Self::H2(_) | Self::Konnectivity(_) => Proof::Messages,
        }
    }

    /// Agents: asks the server for no new work, on links without a control stream.
    pub(crate) fn announce_drain(&self) {
        if let Self::Konnectivity(tunnel) = self {
            tunnel.announce_drain();
        }
    }

    /// Servers: waits until the agent has asked for no new work, on links without a
    /// control stream. Cancel safe.
    pub(crate) async fn peer_drains(&self) {
        match self {
            Self::H2(_) | Self::Quic(_) => std::future::pending().await,
            Self::Konnectivity(tunnel) => tunnel.peer_drains().await,
        }
    }
}
