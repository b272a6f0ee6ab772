//! Establishing a tunnel to one server: resolve, choose a link, race.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;
use tunnel::drain::Drain;
use tunnel::listen::tune;
use tunnel::stream::Stream;
use tunnel::transport::{HandshakeError, Link, Tunnel, h2, quic};

use crate::cli::Transport;
use crate::config::ServerAddr;
use crate::metrics::Metrics;

/// Head start of the preferred link: longer than a handshake takes where it
/// works, too short to be noticed where it does not.
const HEAD_START: Duration = Duration::from_millis(300);

/// Limit of one attempt on one link.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// For how long it is remembered that QUIC lost.
const MEMORY: Duration = Duration::from_secs(600);

/// An established tunnel and its control stream.
pub(crate) type Established = (Tunnel, Stream);

/// Dials one server.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) server: ServerAddr,
    pub(crate) transport: Transport,
    pub(crate) tls: Arc<rustls::ClientConfig>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    /// UDP sockets, one per address family, made when first needed.
    endpoints: [OnceLock<quinn::Endpoint>; 2],
    quic_lost: Mutex<Option<Instant>>,
}

impl Connector {
    pub(crate) fn new(
        server: ServerAddr,
        transport: Transport,
        tls: Arc<rustls::ClientConfig>,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        Self {
            server,
            transport,
            tls,
            metrics,
            drain,
            endpoints: [OnceLock::new(), OnceLock::new()],
            quic_lost: Mutex::new(None),
        }
    }

    /// Establishes a tunnel on the chosen link, or on the first that works.
    /// Cancel safe.
    pub(crate) async fn connect(&self) -> Result<Established, HandshakeError> {
        match self.transport {
            Transport::H2 => self.attempt(Link::H2).await,
            Transport::Quic => self.attempt(Link::Quic).await,
            Transport::Auto => self.race().await,
        }
    }

    /// Whether a tunnel on h2 should be replaced once QUIC works.
    pub(crate) fn prefers_quic(&self) -> bool {
        self.transport == Transport::Auto
    }

    async fn race(&self) -> Result<Established, HandshakeError> {
        let (first, second) =
            if self.quic_lost_lately() { (Link::H2, Link::Quic) } else { (Link::Quic, Link::H2) };
        let mut ahead = Box::pin(self.attempt(first));
        let early = tokio::select! {
            result = &mut ahead => Some(result),
            () = sleep(HEAD_START) => None,
        };
        let (won, lost) = match early {
            Some(Ok(established)) => (first, Ok(established)),
            Some(Err(error)) => self.second(second, first, error).await,
            None => {
                let mut behind = Box::pin(self.attempt(second));
                tokio::select! {
                    biased;
                    result = &mut ahead => match result {
                        Ok(established) => (first, Ok(established)),
                        Err(error) => (second, both(behind.await, first, error)),
                    },
                    result = &mut behind => match result {
                        Ok(established) => (second, Ok(established)),
                        Err(error) => (first, both(ahead.await, second, error)),
                    },
                }
            }
        };
        if lost.is_ok() {
            self.remember(won);
        }
        lost
    }

    async fn second(
        &self,
        link: Link,
        failed: Link,
        error: HandshakeError,
    ) -> (Link, Result<Established, HandshakeError>) {
        (link, both(self.attempt(link).await, failed, error))
    }

    fn quic_lost_lately(&self) -> bool {
        let lost = *self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|at| at.elapsed() < MEMORY)
    }

    fn remember(&self, won: Link) {
        let lost = (won == Link::H2).then(Instant::now);
        let mut memory = self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        // A later win of h2 does not prolong the memory: QUIC gets its chance.
        if lost.is_none() || memory.is_none_or(|at| at.elapsed() >= MEMORY) {
            *memory = lost;
        }
    }

    /// One attempt on one link, at every address in turn.
    pub(crate) async fn attempt(&self, link: Link) -> Result<Established, HandshakeError> {
        let result = match timeout(ATTEMPT_LIMIT, self.try_addresses(link)).await {
            Ok(result) => result,
            Err(_) => Err(HandshakeError::Timeout),
        };
        let outcome = result.as_ref().map_or_else(HandshakeError::label, |_| "connected");
        self.metrics.tunnel_attempts.with_label_values(&[link.label(), outcome]).inc();
        result
    }

    async fn try_addresses(&self, link: Link) -> Result<Established, HandshakeError> {
        let ServerAddr { host, port } = &self.server;
        let addrs: Vec<SocketAddr> = lookup_host((host.as_str(), *port))
            .await
            .map_err(|error| HandshakeError::Lost(format!("lookup {host}: {error}")))?
            .collect();
        let share = ATTEMPT_LIMIT / u32::try_from(addrs.len().max(1)).unwrap_or(u32::MAX);
        let mut last = HandshakeError::Lost(format!("lookup {host}: no address"));
        for addr in addrs {
            // Boxed: handshakes are large, and only a few run at a time.
            let attempt = async {
                match link {
                    Link::H2 => Box::pin(self.connect_h2(addr)).await,
                    Link::Quic => Box::pin(self.connect_quic(addr)).await,
                    Link::Konnectivity => Err(HandshakeError::Config("not chosen by any flag".to_owned())),
                }
            };
            match timeout(share, attempt).await {
                Ok(Ok(established)) => return Ok(established),
                Ok(Err(error)) => last = error,
                Err(_) => last = HandshakeError::Timeout,
            }
            debug!(server = %self.server, %addr, link = link.label(), error = %last, "attempt failed");
        }
        Err(last)
    }

    async fn connect_quic(&self, addr: SocketAddr) -> Result<Established, HandshakeError> {
        let endpoint = self.endpoint(addr)?;
        let (tunnel, control) =
            quic::connect(&endpoint, addr, &self.server.host, Arc::clone(&self.tls)).await?;
        Ok((Tunnel::Quic(tunnel), control))
    }

    fn endpoint(&self, addr: SocketAddr) -> Result<quinn::Endpoint, HandshakeError> {
        let (slot, local) = if addr.is_ipv4() {
            (&self.endpoints[0], SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
        } else {
            (&self.endpoints[1], SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        };
        if let Some(endpoint) = slot.get() {
            return Ok(endpoint.clone());
        }
        let endpoint =
            quic::agent_endpoint(local).map_err(|error| HandshakeError::Lost(error.to_string()))?;
        Ok(slot.get_or_init(|| endpoint).clone())
    }

    async fn connect_h2(&self, addr: SocketAddr) -> Result<Established, HandshakeError> {
        let lost = |error: std::io::Error| HandshakeError::Lost(error.to_string());
        let tcp = TcpStream::connect(addr).await.map_err(lost)?;
        tune(&tcp);
        let name = ServerName::try_from(self.server.host.clone())
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        let tls = tokio_rustls::TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, tcp)
            .await
            .map_err(|error| HandshakeError::Tls(error.to_string()))?;
        if tls.get_ref().1.alpn_protocol() != Some(tunnel::tls::ALPN) {
            return Err(HandshakeError::Tls("the server does not speak this protocol".to_owned()));
        }
        let (tunnel, control) = h2::connect(tls, addr, &self.drain).await?;
        Ok((Tunnel::H2(tunnel), control))
    }
}

/// When both links fail, people need both reasons.
fn both(
    result: Result<Established, HandshakeError>,
    other: Link,
    error: HandshakeError,
) -> Result<Established, HandshakeError> {
    result.map_err(|own| match own {
        HandshakeError::Tls(text) => HandshakeError::Tls(format!("{text}; {}: {error}", other.label())),
        own @ (HandshakeError::Config(_)
        | HandshakeError::Rejected(_)
        | HandshakeError::Lost(_)
        | HandshakeError::Timeout) => HandshakeError::Lost(format!("{own}; {}: {error}", other.label())),
    })
}
