//! One QUIC connection between an agent and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use tunnel_proto::refusal::printable;

use super::congestion;
use super::grant::Grant;
use super::probe::is_port_closed;
use super::stream::Stream;
use crate::transport::error::{DialFailure, TunnelClosed};

/// One QUIC connection.
#[derive(Debug, Clone)]
pub struct Tunnel {
    connection: quinn::Connection,
    grant: Arc<Grant>,
}

impl Tunnel {
    pub(super) fn new(connection: quinn::Connection) -> Self {
        Self { connection, grant: Arc::default() }
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

    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Asks the peer's kernel whether anything listens on the peer's port; see
    /// [`is_port_closed`]. Cancel safe.
    pub(crate) async fn is_port_closed(&self) -> bool {
        is_port_closed(self.remote()).await
    }

    /// Lets the next datagram bypass the congestion window, for heartbeats in a blackout.
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
        let (send, recv) = self.connection.accept_bi().await.map_err(|e| TunnelClosed(lost(&e)))?;
        let (counted, more) = self.grant.take();
        if let Some(more) = more {
            self.connection.set_max_concurrent_bi_streams(more.into());
        }
        Ok(Stream::new(send, recv, Some(counted)))
    }

    pub(crate) fn close(&self, why: &str) {
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
