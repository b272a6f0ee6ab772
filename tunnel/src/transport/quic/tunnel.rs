//! One QUIC connection between an agent and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use tunnel_proto::refusal::printable;

use super::congestion::{self, Acknowledged};
use super::grant::Grant;
use super::probe::is_port_closed;
use super::stream::Stream;
use super::taken::Taken;
use crate::transport::error::{DialFailure, TunnelClosed};

/// One QUIC connection.
#[derive(Debug, Clone)]
pub struct Tunnel {
    connection: quinn::Connection,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    grant: Arc<Grant>,
    taken: Taken,
}

impl Tunnel {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self { connection, shared: Arc::default() }
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The peer's certificates, its own first; empty if it presented none.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = self.connection.peer_identity().and_then(|any| any.downcast().ok());
        chain.map(|chain| *chain).unwrap_or_default()
    }

    /// Size of the largest datagrams that the path is known to carry, in bytes.
    pub fn datagram(&self) -> u16 {
        self.connection.stats().path.current_mtu
    }

    /// Datagrams received from the peer so far.
    pub(crate) fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Counts the packets that the peer acknowledges.
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        Acknowledged::on(&self.connection)
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Asks the peer's kernel whether anything listens on the peer's port; see
    /// [`is_port_closed`]. Cancel safe.
    pub(crate) async fn is_port_closed(&self) -> bool {
        is_port_closed(self.remote()).await
    }

    /// Lets the next datagram bypass the congestion window, for heartbeats in a blackout and close frames.
    pub(crate) fn nudge(&self) {
        congestion::nudge(&self.connection);
    }

    /// Servers: opens a stream without a dial in it; [`Tunnel::dial`] opens one with. Waits
    /// while the agent allows no more streams. Cancel safe.
    ///
    /// [`Tunnel::dial`]: crate::transport::Tunnel::dial
    ///
    /// # Errors
    /// When the tunnel is gone or the agent refuses.
    pub async fn open(&self) -> Result<Stream, DialFailure> {
        let (send, recv) = self.connection.open_bi().await.map_err(|e| DialFailure::Lost(lost(&e)))?;
        Ok(Stream::new(send, recv, None))
    }

    /// Agents: the next stream of the server, of which nothing was read. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<Stream, TunnelClosed> {
        loop {
            let (send, recv) = self.connection.accept_bi().await.map_err(|e| TunnelClosed(lost(&e)))?;
            let (counted, more) = self.shared.grant.take();
            if let Some(more) = more {
                self.connection.set_max_concurrent_bi_streams(more.into());
            }
            let stream = Stream::new(send, recv, Some(counted));
            // One that is not taken is reset.
            if self.shared.taken.take(stream.id()) {
                return Ok(stream);
            }
        }
    }

    /// Agents: takes no more streams. Returns the number of those taken.
    pub(crate) fn stop_taking(&self) -> u64 {
        self.shared.taken.stop()
    }

    /// Servers: the agent takes so many streams, and none after them.
    pub(crate) fn takes_only(&self, streams: u64) {
        self.shared.taken.told(streams);
    }

    /// Servers: waits until the agent has said that it does not take this stream. Cancel safe.
    pub(crate) async fn is_left(&self, stream: u64) {
        self.shared.taken.is_left(stream).await;
    }

    pub(crate) fn close(&self, why: &str) {
        congestion::lift(&self.connection);
        self.connection.close(VarInt::from_u32(0), why.as_bytes());
    }

    pub(crate) async fn closed(&self) -> TunnelClosed {
        TunnelClosed(lost(&self.connection.closed().await))
    }
}

/// The end of a connection in words, of which the peer may have chosen some.
pub(super) fn lost(error: &quinn::ConnectionError) -> String {
    printable(error.to_string())
}
