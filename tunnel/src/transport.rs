//! Tunnels, whichever link they use.
//!
//! Who dialled and who opens streams are different things here: agents dial,
//! servers open streams. [`Tunnel::open`] is for servers, [`Tunnel::accept`]
//! for agents. Each link hands over a control stream together with the tunnel;
//! on it the agent speaks first.

pub mod h2;
pub mod quic;

use std::net::SocketAddr;

use crate::stream::Stream;

/// The protocol under a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// HTTP/2 over TLS over TCP.
    H2,
    /// QUIC.
    Quic,
}

impl Link {
    /// The name in flags, metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Quic => "quic",
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
    /// Agents do not open streams.
    #[error("streams are opened by servers")]
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
        }
    }

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        match self {
            Self::H2(tunnel) => tunnel.remote(),
            Self::Quic(tunnel) => tunnel.remote(),
        }
    }

    /// How much was received from the peer so far, on links whose peer can die
    /// without a word. On TCP the peer's kernel closes the connection.
    pub fn received(&self) -> Option<u64> {
        match self {
            Self::H2(_) => None,
            Self::Quic(tunnel) => Some(tunnel.received()),
        }
    }

    /// Whether the peer's host says that nobody listens there any more. Behind
    /// a NAT that may be said of a living peer, so ask only about silent ones.
    pub async fn is_port_closed(&self) -> bool {
        match self {
            Self::H2(_) => false,
            Self::Quic(tunnel) => tunnel.is_port_closed().await,
        }
    }

    /// Opens a stream; servers only. Waits while the agent allows no more
    /// streams, so the caller limits its time. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is gone or the agent refuses.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        match self {
            Self::H2(tunnel) => tunnel.open().await,
            Self::Quic(tunnel) => tunnel.open().await,
        }
    }

    /// The next stream that the server opened; agents only. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<Stream, TunnelClosed> {
        match self {
            Self::H2(tunnel) => tunnel.accept().await,
            Self::Quic(tunnel) => tunnel.accept().await,
        }
    }

    /// Ends the tunnel and all its streams at once.
    pub fn close(&self, why: &str) {
        match self {
            Self::H2(tunnel) => tunnel.close(why),
            Self::Quic(tunnel) => tunnel.close(why),
        }
    }

    /// Waits until the tunnel is over. Cancel safe.
    pub async fn closed(&self) -> TunnelClosed {
        match self {
            Self::H2(tunnel) => tunnel.closed().await,
            Self::Quic(tunnel) => tunnel.closed().await,
        }
    }
}
