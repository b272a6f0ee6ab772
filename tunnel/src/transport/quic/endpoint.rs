//! The sockets on which servers accept tunnels, and from which agents dial them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};

use super::config::{endpoint_config, transport_config};
use super::datagrams::{Datagrams, is_here};
use super::grant::FIRST_STREAMS;
use super::ids::Ids;
use super::socket::Socket;
use super::stream::Stream;
use super::tunnel::{Tunnel, lost};
use crate::tls::Secret;
use crate::transport::error::HandshakeError;

/// Requested size of the UDP socket's buffers, in bytes; the kernel may give less. Smaller
/// ones lose datagrams in bursts.
const UDP_BUFFER: usize = 4 << 20;

/// Least time between two stateless resets of a server: none. A restarted server sends one
/// for each agent of its predecessor, many of them in one moment; a pause would delay their
/// return. Strangers get none, since only connection ids made with the server's key are
/// answered, and an answer is shorter than the datagram that caused it.
const RESET_INTERVAL: Duration = Duration::ZERO;

/// Interval of QUIC's keep-alive, sent by agents to keep a NAT's mapping. Longer loses the
/// mapping at some NATs; shorter costs datagrams.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Binds a UDP socket with large buffers.
///
/// # Errors
/// When the address is not available.
pub(crate) fn bind_udp(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // The kernel may allow less, which is slower and not an error.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// The receive buffer of a UDP socket as tunnels have it, in bytes: requested, and given by
/// the kernel.
///
/// # Errors
/// When no socket can be bound.
pub fn receive_buffer() -> io::Result<(usize, usize)> {
    let socket = bind_udp((std::net::Ipv4Addr::LOCALHOST, 0).into())?;
    // Linux counts its own bookkeeping, and so reports twice the size (socket(7)).
    Ok((UDP_BUFFER, socket2::SockRef::from(&socket).recv_buffer_size()? / 2))
}

fn end(
    config: quinn::EndpointConfig,
    server: Option<quinn::ServerConfig>,
    socket: std::net::UdpSocket,
) -> io::Result<quinn::Endpoint> {
    let socket = Socket::new(socket)?;
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(quinn::TokioRuntime))
}

/// The server's end: accepts tunnels.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    configs: Mutex<Configs>,
}

#[derive(Debug, Clone)]
struct Configs {
    /// For agents on this host; `elsewhere` for all others.
    here: Arc<quinn::ServerConfig>,
    elsewhere: Arc<quinn::ServerConfig>,
}

impl Listener {
    /// `secret` has to survive a restart of the server: with it, the new process resets the
    /// tunnels of its predecessor's agents (stateless reset, RFC 9000 section 10.3), which
    /// then return at once.
    ///
    /// # Errors
    /// When the TLS configuration is not fit for QUIC (TLS 1.3), or the socket
    /// cannot be used.
    pub fn new(
        socket: std::net::UdpSocket,
        tls: Arc<rustls::ServerConfig>,
        secret: &Secret,
        datagrams: Datagrams,
    ) -> io::Result<Self> {
        let crypto = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        // First packets of strangers, bounded in number and bytes.
        config.max_incoming(1024).incoming_buffer_size(64 << 10).incoming_buffer_size_total(16 << 20);
        let for_datagrams = |datagram| {
            let mut config = config.clone();
            config.transport_config(transport_config(1, None, datagram));
            Arc::new(config)
        };
        let (here, elsewhere) = (for_datagrams(datagrams.here), for_datagrams(datagrams.elsewhere));
        let reset_key = Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.bytes()));
        // Packets to a predecessor's connection ids are reset only if the ids pass for ours.
        let ids = Ids::new(&reset_key);
        let mut endpoint = endpoint_config(datagrams.largest(), Some(&reset_key))?;
        endpoint.min_reset_interval(RESET_INTERVAL);
        endpoint.cid_generator(move || Box::new(ids.clone()));
        let endpoint = end(endpoint, Some(config), socket)?;
        Ok(Self { endpoint, configs: Mutex::new(Configs { here, elsewhere }) })
    }

    /// Uses another TLS configuration for handshakes that begin later.
    ///
    /// # Errors
    /// When it is not fit for QUIC.
    pub fn renew(&self, tls: Arc<rustls::ServerConfig>) -> io::Result<()> {
        let crypto = Arc::new(QuicServerConfig::try_from(tls).map_err(io::Error::other)?);
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let Configs { here, elsewhere } = &mut *configs;
        for config in [here, elsewhere] {
            Arc::make_mut(config).crypto = Arc::clone(&crypto) as Arc<_>;
        }
        self.endpoint.set_server_config(Some((*configs.elsewhere).clone()));
        Ok(())
    }

    /// Waits for the next agent that dials. Returns `None` when the socket failed. Cancel safe.
    pub async fn next(&self) -> Option<Incoming> {
        let incoming = self.endpoint.accept().await?;
        let Configs { here, elsewhere } = self.configs.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = if is_here(incoming.remote_address().ip()) { here } else { elsewhere };
        Some(Incoming { incoming, config })
    }

    /// Waits until all tunnels are closed and their last packets sent. Cancel safe.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// An agent that dials.
#[derive(Debug)]
pub struct Incoming {
    incoming: quinn::Incoming,
    config: Arc<quinn::ServerConfig>,
}

impl Incoming {
    /// The agent's address, not validated yet.
    pub fn from(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// The agent if its address is validated, or need not be. Else it is asked to come again with
    /// proof of its address (RFC 9000 section 8.1.2), which takes no memory.
    pub fn validated(self, need_not: bool) -> Option<Self> {
        if need_not || self.incoming.remote_address_validated() || !self.incoming.may_retry() {
            return Some(self);
        }
        // Fails only for an address that is validated.
        let _ = self.incoming.retry();
        None
    }

    /// Finishes the handshake and takes the control stream. The caller limits the time.
    /// Cancel safe: dropping the future refuses the agent.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn accept(self) -> Result<(Tunnel, Stream), HandshakeError> {
        let connecting = self.incoming.accept_with(self.config).map_err(handshake_error)?;
        let connection = connecting.await.map_err(handshake_error)?;
        let (send, recv) = connection.accept_bi().await.map_err(handshake_error)?;
        Ok((Tunnel::new(connection), control(send, recv)))
    }
}

/// The agent's end: a socket from which tunnels are opened.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    datagrams: Datagrams,
}

impl Dialer {
    /// Binds a socket to `from`.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn new(from: SocketAddr, datagrams: Datagrams) -> io::Result<Self> {
        let config = endpoint_config(datagrams.largest(), None)?;
        let endpoint = end(config, None, bind_udp(from)?)?;
        Ok(Self { endpoint, datagrams })
    }

    /// Waits until all tunnels are closed and their last packets sent. Cancel safe.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }

    /// Dials a server, and opens the control stream. The caller limits the time. Cancel safe:
    /// dropping the future gives the attempt up.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        name: &str,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<(Tunnel, Stream), HandshakeError> {
        let crypto =
            QuicClientConfig::try_from(tls).map_err(|error| HandshakeError::Tls(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        let datagram = self.datagrams.to(addr.ip());
        config.transport_config(transport_config(FIRST_STREAMS, Some(KEEP_ALIVE), datagram));
        let connecting = self
            .endpoint
            .connect_with(config, addr, name)
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        let connection = connecting.await.map_err(handshake_error)?;
        let (send, recv) = connection.open_bi().await.map_err(handshake_error)?;
        Ok((Tunnel::new(connection), control(send, recv)))
    }
}

/// The control stream. Its priority keeps heartbeats from waiting behind other streams on a
/// slow network.
fn control(send: quinn::SendStream, recv: quinn::RecvStream) -> Stream {
    // Fails only on a stream that has ended.
    let _ = send.set_priority(1);
    Stream::new(send, recv, None)
}

fn handshake_error(error: quinn::ConnectionError) -> HandshakeError {
    let text = lost(&error);
    // TLS alerts travel as transport errors from 0x100 on (RFC 9001 section 4.8).
    let is_alert = |code| (0x100..0x200).contains(&u64::from(code));
    match error {
        quinn::ConnectionError::TransportError(ours) if is_alert(ours.code) => HandshakeError::tls(text),
        // The text is the peer's.
        quinn::ConnectionError::ConnectionClosed(peers) if is_alert(peers.error_code) => {
            HandshakeError::Tls(text)
        }
        quinn::ConnectionError::TransportError(_)
        | quinn::ConnectionError::ConnectionClosed(_)
        | quinn::ConnectionError::VersionMismatch
        | quinn::ConnectionError::ApplicationClosed(_)
        | quinn::ConnectionError::Reset
        | quinn::ConnectionError::TimedOut
        | quinn::ConnectionError::LocallyClosed
        | quinn::ConnectionError::CidsExhausted => HandshakeError::Lost(text),
    }
}
