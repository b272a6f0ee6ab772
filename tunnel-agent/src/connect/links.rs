//! One attempt on one link at one address: everything below the greeting.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::listen::tune_link;
use tunnel::packets::Counters;
use tunnel::tls::ALPN;
use tunnel::transport::quic::{self, Datagrams};
use tunnel::transport::{HandshakeError, Opened, Tunnel, open_on_tcp};

use super::ATTEMPT_LIMIT;
use crate::cli::Transport;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::proxy::Proxies;

/// The name of gRPC in TLS, which is what a Konnectivity server speaks.
const ALPN_GRPC: &[u8] = b"h2";

/// What it takes to establish tunnels.
#[derive(Debug)]
pub(super) struct Links {
    /// On UDP only our own protocol.
    quic_tls: Arc<rustls::ClientConfig>,
    /// On TCP the server chooses by ALPN.
    tcp_tls: Arc<rustls::ClientConfig>,
    /// Ways out for TCP.
    proxies: Proxies,
    drain: Drain,
    /// Shared by all attempts, if there is one.
    dialer: Option<quic::Dialer>,
    datagrams: Datagrams,
    /// Of konnectivity packets.
    counters: Counters,
}

impl Links {
    pub(super) fn new(
        config: &Config,
        drain: Drain,
        dialer: Option<quic::Dialer>,
        counters: Counters,
    ) -> Self {
        let with_alpn = |alpn: Vec<Vec<u8>>| {
            let mut tls = (*config.tls).clone();
            tls.alpn_protocols = alpn;
            Arc::new(tls)
        };
        Self {
            quic_tls: with_alpn(vec![ALPN.to_vec()]),
            tcp_tls: with_alpn(tcp_alpn(&config.alpn, config.transport)),
            proxies: config.proxies.clone(),
            drain,
            dialer,
            datagrams: config.datagrams,
            counters,
        }
    }

    /// Each attempt has a UDP port of its own, which lives as long as its tunnel:
    /// load balancers tell clients apart by it, and would lead one port to one
    /// server for ever.
    pub(super) async fn quic(&self, endpoint: &Endpoint) -> Result<Opened, HandshakeError> {
        let local: SocketAddr = if endpoint.addr.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let dialer = match &self.dialer {
            Some(shared) => shared.clone(),
            None => quic::Dialer::new(local, self.datagrams)
                .map_err(|error| HandshakeError::Lost(error.to_string()))?,
        };
        let (tunnel, control) =
            dialer.connect(endpoint.addr, &endpoint.name, Arc::clone(&self.quic_tls)).await?;
        Ok(Opened::new(Tunnel::Quic(tunnel), control))
    }

    /// TCP and TLS, and then the protocol that the server has chosen.
    pub(super) async fn tcp(&self, endpoint: &Endpoint) -> Result<Opened, HandshakeError> {
        let lost = |error: std::io::Error| HandshakeError::Lost(error.to_string());
        let tcp = match self.proxies.to(&endpoint.name, endpoint.addr.port()) {
            Some(proxy) => proxy
                .connect(&endpoint.name, endpoint.addr.port(), Instant::now() + ATTEMPT_LIMIT)
                .await
                .map_err(|error| HandshakeError::Lost(error.to_string()))?,
            None => TcpStream::connect(endpoint.addr).await.map_err(lost)?,
        };
        tune_link(&tcp);
        let name = ServerName::try_from(endpoint.name.to_string())
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        let tls = TlsConnector::from(Arc::clone(&self.tcp_tls))
            .connect(name, tcp)
            .await
            .map_err(|error| HandshakeError::Tls(error.to_string()))?;
        Box::pin(open_on_tcp(tls, endpoint.addr, &endpoint.name, self.counters.clone(), &self.drain)).await
    }
}

/// What is offered on TCP, best first: names that the operator wants load
/// balancers to see, our own, and gRPC's for servers that know no other.
fn tcp_alpn(extra: &[String], transport: Transport) -> Vec<Vec<u8>> {
    let mut offered: Vec<Vec<u8>> = extra.iter().map(|name| name.clone().into_bytes()).collect();
    let own: &[&[u8]] = match transport {
        Transport::Auto => &[ALPN, ALPN_GRPC],
        Transport::H2 | Transport::Quic => &[ALPN],
        Transport::Konnectivity => &[ALPN_GRPC],
    };
    offered.extend(own.iter().map(|name| name.to_vec()));
    offered
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
