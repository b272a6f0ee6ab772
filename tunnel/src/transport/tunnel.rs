//! One tunnel, on any link: the place that lists the links.

use std::net::SocketAddr;
use std::time::Duration;

use tunnel_proto::message::Dial;

use super::dial::{IncomingDial, Reached, on_stream};
use super::error::{DialFailure, TunnelClosed};
use super::link::Link;
use super::{h2, konnectivity, quic};
use crate::stream::Stream;

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

/// The signs of a peer's life on a link.
pub(crate) enum Proof {
    /// Datagrams and acknowledgements of QUIC, which outlive a blackout.
    Datagrams(quic::Tunnel),
    /// The peer's messages, or the end of the TCP connection.
    Messages,
}

impl Tunnel {
    /// The link.
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

    /// Size of the largest datagrams that the path is known to carry, in bytes. QUIC only.
    pub fn datagram(&self) -> Option<u16> {
        match self {
            Self::Quic(tunnel) => Some(tunnel.datagram()),
            Self::H2(_) | Self::Konnectivity(_) => None,
        }
    }

    /// Servers: asks the agent to connect to a target. Calls `opened` once a stream for the
    /// dial is open. On links whose connections share one stream, a dial that the agent has
    /// not read after `untaken` is taken back and fails with [`DialFailure::Busy`].
    ///
    /// The caller limits the time. Cancel safe: dropping the future cancels the dial at the
    /// agent.
    ///
    /// # Errors
    /// See [`DialFailure`].
    pub async fn dial(
        &self,
        dial: &Dial,
        untaken: Option<Duration>,
        opened: impl FnOnce(),
    ) -> Result<Reached, DialFailure> {
        match self {
            Self::H2(tunnel) => on_stream(tunnel.open().await?.into(), dial, opened).await,
            Self::Quic(tunnel) => {
                let stream = tunnel.open().await?;
                let id = stream.id();
                tokio::select! {
                    biased;
                    reached = on_stream(stream.into(), dial, opened) => reached,
                    // Nothing has reached the target, so the dial may be made elsewhere.
                    () = tunnel.is_left(id) => Err(DialFailure::Busy),
                }
            }
            Self::Konnectivity(tunnel) => {
                opened();
                tunnel.dial(dial.target.to_string(), untaken).await.map(|conn| Stream::from(conn).into())
            }
        }
    }

    /// Agents: waits for the next dial of the server. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<IncomingDial, TunnelClosed> {
        match self {
            Self::H2(tunnel) => tunnel.accept().await.map(|stream| IncomingDial::on_stream(stream.into())),
            Self::Quic(tunnel) => tunnel.accept().await.map(|stream| IncomingDial::on_stream(stream.into())),
            Self::Konnectivity(tunnel) => tunnel.accept().await.map(IncomingDial::by_packet),
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

    /// Whether packets have waited for a second without the peer reading any, so that other
    /// agents are dialled first. Konnectivity only.
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

    /// Agents: takes no more of the server's streams. Returns the number of those taken. QUIC
    /// only, where a tunnel outlives the silence of its server.
    pub(crate) fn stop_taking(&self) -> Option<u64> {
        match self {
            Self::Quic(tunnel) => Some(tunnel.stop_taking()),
            Self::H2(_) | Self::Konnectivity(_) => None,
        }
    }

    /// Servers: the agent takes so many streams, and none after them.
    pub(crate) fn takes_only(&self, streams: u64) {
        match self {
            Self::Quic(tunnel) => tunnel.takes_only(streams),
            Self::H2(_) | Self::Konnectivity(_) => {}
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
