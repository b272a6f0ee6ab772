//! An attempt on each link, without the greeting.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tunnel::listen::{connect_small, tune_link};
use tunnel::tls::{ALPN, Dialling};
use tunnel::transport::quic;
use tunnel::transport::{HandshakeError, Opened, Tunnel, open_on_tcp};

use super::{ATTEMPT_LIMIT, Connector, Open};
use crate::cli::Transport;
use crate::course::Segments;
use crate::endpoint::Endpoint;

/// The ALPN name of gRPC, which Konnectivity servers speak.
const ALPN_GRPC: &[u8] = b"h2";

/// Time of a TLS handshake after which it is begun anew with small segments, on doubtful ways.
/// Shorter, and slow servers shake hands twice; longer, and people wait for the tunnel.
const HANGS: Duration = Duration::from_secs(3);

impl Connector {
    /// UDP and QUIC. Without a shared socket, each attempt has its own, which lives as long
    /// as the tunnel: load balancers that hash ports would lead one port to one server for
    /// ever.
    pub(super) async fn quic(&self, endpoint: &Endpoint, tls: &Dialling) -> Result<Open, HandshakeError> {
        let local: SocketAddr = if endpoint.addr.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let dialer = match &self.dialer {
            Some(shared) => shared.clone(),
            None => quic::Dialer::new(local, self.config.datagrams)
                .map_err(|error| HandshakeError::Lost(error.to_string()))?,
        };
        let tls = with_alpn(tls, vec![ALPN.to_vec()]);
        let (tunnel, control) = dialer.connect(endpoint.addr, &endpoint.name, tls).await?;
        let chain = tunnel.chain().into();
        Ok((Opened::new(Tunnel::Quic(tunnel), control), chain))
    }

    /// TCP, TLS, and the protocol that the server has chosen by ALPN.
    pub(super) async fn tcp(
        &self,
        endpoint: &Endpoint,
        tls: &Dialling,
        segments: Segments,
    ) -> Result<Open, HandshakeError> {
        // A proxy's connections are its own.
        let segments =
            if self.is_proxied(&endpoint.name, endpoint.addr.port()) { Segments::Whole } else { segments };
        let small = async || connect_small(endpoint.addr).await.map_err(lost);
        let tls = match segments {
            Segments::Whole => self.tls(endpoint, tls, self.connected(endpoint).await?).await?,
            Segments::Small => self.tls(endpoint, tls, small().await?).await?,
            Segments::Doubtful => {
                let tcp = self.connected(endpoint).await?;
                match timeout(HANGS, self.tls(endpoint, tls, tcp)).await {
                    Ok(shaken) => shaken?,
                    Err(_) => self.tls(endpoint, tls, small().await?).await?,
                }
            }
        };
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default().into();
        let (addr, name) = (endpoint.addr, &endpoint.name);
        let opened = Box::pin(open_on_tcp(tls, addr, name, self.metrics.packets(), &self.drain)).await?;
        Ok((opened, chain))
    }

    async fn connected(&self, Endpoint { addr, name }: &Endpoint) -> Result<TcpStream, HandshakeError> {
        match self.config.proxies.to(name, addr.port()) {
            Some(proxy) => {
                let connected = proxy.connect(name, addr.port(), Instant::now() + ATTEMPT_LIMIT).await;
                connected.map_err(|error| HandshakeError::Lost(error.to_string()))
            }
            None => TcpStream::connect(addr).await.map_err(lost),
        }
    }

    async fn tls(
        &self,
        Endpoint { name, .. }: &Endpoint,
        tls: &Dialling,
        tcp: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        tune_link(&tcp);
        let server = ServerName::try_from(name.to_string())
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        let tls = with_alpn(tls, tcp_alpn(&self.config.alpn, self.config.transport));
        let shaken = TlsConnector::from(tls).connect(server, tcp).await;
        shaken.map_err(|error| HandshakeError::tls(error.to_string()))
    }
}

fn lost(error: io::Error) -> HandshakeError {
    HandshakeError::Lost(error.to_string())
}

fn with_alpn(tls: &Dialling, alpn: Vec<Vec<u8>>) -> Arc<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::clone(&tls.config);
    config.alpn_protocols = alpn;
    Arc::new(config)
}

/// The ALPN names to offer on TCP, best first: the operator's for load balancers, our
/// own, and gRPC's for Konnectivity servers.
pub(crate) fn tcp_alpn(extra: &[String], transport: Transport) -> Vec<Vec<u8>> {
    let own: &[&[u8]] = match transport {
        Transport::Auto => &[ALPN, ALPN_GRPC],
        Transport::H2 | Transport::Quic => &[ALPN],
        Transport::Konnectivity => &[ALPN_GRPC],
    };
    extra.iter().map(String::as_bytes).chain(own.iter().copied()).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_on_tcp() {
        let shown = |extra: &[&str], transport| {
            let extra: Vec<String> = extra.iter().map(|name| (*name).to_owned()).collect();
            let names = tcp_alpn(&extra, transport).into_iter().map(|name| String::from_utf8(name).unwrap());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(&[], Transport::Auto), "tunnel/1 h2");
        assert_eq!(shown(&[], Transport::H2), "tunnel/1");
        assert_eq!(shown(&[], Transport::Konnectivity), "h2");
        assert_eq!(shown(&["proxy"], Transport::Auto), "proxy tunnel/1 h2");
    }
}
