//! Tunnels, whichever link they use.
//!
//! Who dialled and who opens streams are different things here: agents dial,
//! servers open streams. [`Tunnel::open`] is for servers, [`Tunnel::accept`]
//! for agents. Each link hands over a control stream together with the tunnel;
//! on it the agent speaks first.

pub mod h2;
pub mod konnectivity;
pub mod quic;

use std::net::SocketAddr;
use std::time::Duration;

use crate::packets::Asked;
use crate::signs::Traffic;
use crate::stream::Stream;

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
}

impl Link {
    /// The name in flags, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
            Self::Konnectivity => "konnectivity",
        }
    }
}

/// One authenticated connection between an agent and a server. Clones are the
/// same tunnel.
#[derive(Debug, Clone)]
pub enum Tunnel {
    /// On HTTP/2.
    H2(h2::Tunnel),
    /// On QUIC.
    Quic(quic::Tunnel),
    /// On Konnectivity's gRPC.
    Konnectivity(konnectivity::Tunnel),
}

/// What a server sends an agent for a connection.
#[derive(Debug)]
pub enum Offered {
    /// A stream, with the dial as its first message.
    Stream(Stream),
    /// A dial, whose stream comes with its answer.
    Dial(Asked),
}

/// A tunnel that could not be established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The settings do not allow it.
    #[error("{0}")]
    Config(String),
    /// No connection, or it went away.
    #[error("{0}")]
    Lost(String),
    /// One side did not accept the other's certificate, or there was no TLS.
    #[error("tls: {0}")]
    Tls(String),
    /// The peer does not want it.
    #[error("{0}")]
    Rejected(String),
    /// It took too long.
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

/// A stream that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The agent takes no more streams for now.
    #[error("the agent is at its stream limit")]
    Busy,
    /// The tunnel is gone.
    #[error("tunnel lost: {0}")]
    Lost(String),
    /// Agents do not open streams, nor does anybody on a konnectivity link.
    #[error("streams are not opened from here")]
    WrongSide,
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

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        match self {
            Self::H2(tunnel) => tunnel.remote(),
            Self::Quic(tunnel) => tunnel.remote(),
            Self::Konnectivity(tunnel) => tunnel.remote(),
        }
    }

    /// How much was received from the peer so far, on links whose peer can die
    /// without a word. On TCP the peer's kernel closes the connection.
    pub fn received(&self) -> Option<u64> {
        match self {
            Self::H2(_) | Self::Konnectivity(_) => None,
            Self::Quic(tunnel) => Some(tunnel.received()),
        }
    }

    /// Datagrams so far, on links on which [`Self::received`] tells something.
    pub fn traffic(&self) -> Option<Traffic> {
        match self {
            Self::H2(_) | Self::Konnectivity(_) => None,
            Self::Quic(tunnel) => Some(tunnel.traffic()),
        }
    }

    /// How long a round trip takes, as far as is known; nothing on links that
    /// answer for themselves.
    pub fn round_trip(&self) -> Duration {
        match self {
            Self::H2(_) | Self::Konnectivity(_) => Duration::ZERO,
            Self::Quic(tunnel) => tunnel.round_trip(),
        }
    }

    /// Whether the peer's host says that nobody listens there any more. Behind
    /// a NAT that may be said of a living peer, so ask only about silent ones.
    pub async fn is_port_closed(&self) -> bool {
        match self {
            Self::H2(_) | Self::Konnectivity(_) => false,
            Self::Quic(tunnel) => tunnel.is_port_closed().await,
        }
    }

    /// The next thing that is said goes out even if nothing that was sent before
    /// has arrived yet, on links where it would wait for that: for a word now and
    /// then to a peer of whom nothing is heard.
    pub fn nudge(&self) {
        match self {
            Self::H2(_) | Self::Konnectivity(_) => {}
            Self::Quic(tunnel) => tunnel.nudge(),
        }
    }

    /// Opens a stream; servers only, and not on a konnectivity link, where a
    /// dial makes it ([`konnectivity::Tunnel::dial`]). Waits while the agent
    /// allows no more streams, so the caller limits its time. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is gone or the agent refuses.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        match self {
            Self::H2(tunnel) => tunnel.open().await,
            Self::Quic(tunnel) => tunnel.open().await,
            Self::Konnectivity(_) => Err(OpenError::WrongSide),
        }
    }

    /// What the server wants next; agents only. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<Offered, TunnelClosed> {
        match self {
            Self::H2(tunnel) => tunnel.accept().await.map(Offered::Stream),
            Self::Quic(tunnel) => tunnel.accept().await.map(Offered::Stream),
            Self::Konnectivity(tunnel) => tunnel.accept().await.map(Offered::Dial),
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
}
