//! The `quic` link: quinn, one bidirectional stream per dialled connection.
//!
//! The server opens streams and grants the agent exactly one, the control
//! stream; the agent grants many and raises the grant as it is used, because
//! quinn takes memory for every stream it allows.

mod congestion;
mod datagrams;
mod ids;
mod socket;
mod stream;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, VarInt};

use crate::signs::Traffic;
use crate::stream as any;
use crate::tls::Secret;
use crate::transport::{HandshakeError, OpenError, TunnelClosed};

pub use datagrams::{Datagrams, LARGEST, SMALLEST};
pub use stream::Stream;

use datagrams::is_here;
use ids::Ids;
use socket::Socket;

/// Bytes of one stream that may be unread at its receiver. quinn takes the window before
/// a round-trip time is known, so one value serves all distances. At a round trip of
/// 20 ms it carries 150 MB/s, at 80 ms 39 MB/s. Below, far tunnels are slower in
/// proportion; above, each stalled reader pins more of the process's budget
/// ([`Budget`](crate::relay::Budget)).
pub(crate) const STREAM_WINDOW: u32 = 3 << 20;

/// Bytes of one tunnel that are sent and not yet acknowledged.
const SEND_WINDOW: u64 = 8 << 20;

/// A peer that is silent for this long is gone, and streams with it. Heartbeats
/// on the control stream notice sooner that something is wrong, and new work goes
/// elsewhere then ([`Patience`](crate::control::Patience)).
const IDLE_TIMEOUT_MS: u32 = 70_000;

/// Keeps a NAT's mapping alive; only the agent is behind one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams an agent allows at first.
const FIRST_STREAMS: u32 = 256;

/// Streams an agent allows at most.
pub(crate) const MAX_STREAMS: u32 = 1 << 16;

/// Wanted size of the UDP socket's buffers; the kernel may give less.
const UDP_BUFFER: usize = 4 << 20;

/// The search for the largest datagram ends with steps of this part of it, or of
/// [`LEAST_STEP`] bytes: each costs a new tunnel a probe.
const LAST_STEP: u16 = 40;

/// quinn's own choice.
const LEAST_STEP: u16 = 20;

/// Least time between two stateless resets of a server: none. A restarted one has
/// one to send for each of its predecessor's agents, at their next sign of life,
/// many of which come in one moment. Nobody else gets any: what is answered has a
/// connection id that only our key makes, and is longer than the answer.
const RESET_INTERVAL: Duration = Duration::ZERO;

/// What a peer's kernel is asked with. One byte is no QUIC packet; a living peer
/// ignores it.
const PROBE: &[u8] = &[0];

/// How long the answer of a peer's kernel is waited for.
const PROBE_LIMIT: Duration = Duration::from_millis(900);

/// How often it is asked in this time. A kernel answers six datagrams to closed ports
/// in a moment and then one per second (icmp(7), `icmp_ratelimit`), and QUIC's own
/// come in between, so the more probes there are the sooner one is answered.
const PROBE_AGAIN: Duration = Duration::from_millis(150);

/// Binds a UDP socket with large buffers.
///
/// # Errors
/// When the address is not available.
pub fn bind_udp(addr: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // As much as the kernel allows; less is slower, not wrong.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    let _ = socket.set_send_buffer_size(UDP_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn transport_config(
    streams: u32,
    keep_alive: Option<Duration>,
    datagram: u16,
) -> Arc<quinn::TransportConfig> {
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(5)));
    let mut mtu = quinn::MtuDiscoveryConfig::default();
    mtu.upper_bound(datagram).minimum_change(LEAST_STEP.max(datagram / LAST_STEP));

    let mut config = quinn::TransportConfig::default();
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        // More than all streams together may hold, so that stalled readers
        // cannot use it up for the others.
        .receive_window(VarInt::MAX)
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(keep_alive)
        .initial_rtt(Duration::from_millis(50))
        .datagram_receive_buffer_size(None)
        .allow_spin(false)
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::<congestion::Config>::default())
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

/// Configuration of an end: what it takes, and what stateless resets are made with.
fn endpoint_config(
    datagram: u16,
    reset_key: Option<&Arc<ring::hmac::Key>>,
) -> io::Result<quinn::EndpointConfig> {
    let mut config = match reset_key {
        Some(key) => quinn::EndpointConfig::new(Arc::clone(key) as _),
        None => quinn::EndpointConfig::default(),
    };
    // Peers are told of it and send none that are larger.
    config.max_udp_payload_size(datagram).map_err(io::Error::other)?;
    Ok(config)
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
    /// For agents on this host, and for all others.
    here: Arc<quinn::ServerConfig>,
    elsewhere: Arc<quinn::ServerConfig>,
}

impl Listener {
    /// `secret` has to stay the same when the server restarts: with it, a new
    /// process can tell the agents of its predecessor that their tunnels are gone
    /// (stateless reset, RFC 9000 section 10.3), and they come back at once.
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
        // Strangers' first packets: bounded in number and bytes.
        config.max_incoming(1024).incoming_buffer_size(64 << 10).incoming_buffer_size_total(16 << 20);
        let for_datagrams = |datagram| {
            let mut config = config.clone();
            config.transport_config(transport_config(1, None, datagram));
            Arc::new(config)
        };
        let (here, elsewhere) = (for_datagrams(datagrams.here), for_datagrams(datagrams.elsewhere));
        let reset_key = Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.bytes()));
        // Connection ids of a predecessor have to look like our own, or packets
        // for them are dropped without the reset.
        let ids = Ids::new(&reset_key);
        let mut endpoint = endpoint_config(datagrams.largest(), Some(&reset_key))?;
        endpoint.min_reset_interval(RESET_INTERVAL);
        endpoint.cid_generator(move || Box::new(ids.clone()));
        let endpoint = end(endpoint, Some(config), socket)?;
        Ok(Self { endpoint, here, elsewhere })
    }

    /// The next agent that dials; `None` when the socket failed. Cancel safe.
    pub async fn next(&self) -> Option<Incoming> {
        let incoming = self.endpoint.accept().await?;
        let config = if is_here(incoming.remote_address().ip()) { &self.here } else { &self.elsewhere };
        Some(Incoming { incoming, config: Arc::clone(config) })
    }

    /// Waits until all tunnels are closed and their last words said. Cancel safe.
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
    /// Where it is, as far as it says.
    pub fn from(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Finishes the handshake and takes the control stream.
    ///
    /// Cancel safe: dropping it refuses the agent. The caller limits its time.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn accept(self) -> Result<(Tunnel, any::Stream), HandshakeError> {
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
    /// From this address.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn new(from: SocketAddr, datagrams: Datagrams) -> io::Result<Self> {
        let config = endpoint_config(datagrams.largest(), None)?;
        let endpoint = end(config, None, bind_udp(from)?)?;
        Ok(Self { endpoint, datagrams })
    }

    /// Dials a server, and opens the control stream.
    ///
    /// Cancel safe: dropping it gives the attempt up. The caller limits its time.
    ///
    /// # Errors
    /// When the handshake fails.
    pub async fn connect(
        &self,
        addr: SocketAddr,
        name: &str,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<(Tunnel, any::Stream), HandshakeError> {
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

/// The control stream, whose few bytes go before those of all others: however
/// many streams wait for their turn on a slow network, heartbeats do not.
fn control(send: quinn::SendStream, recv: quinn::RecvStream) -> any::Stream {
    // Fails only on a stream that has ended.
    let _ = send.set_priority(1);
    Stream::new(send, recv).into()
}

fn handshake_error(error: quinn::ConnectionError) -> HandshakeError {
    // TLS alerts travel as transport errors from 0x100 on (RFC 9001 section 4.8).
    if let quinn::ConnectionError::TransportError(transport) = &error
        && (0x100..0x200).contains(&u64::from(transport.code))
    {
        return HandshakeError::Tls(error.to_string());
    }
    HandshakeError::Lost(error.to_string())
}

/// One QUIC connection.
#[derive(Debug, Clone)]
pub struct Tunnel {
    connection: quinn::Connection,
    streams: Arc<Grant>,
}

/// How many streams this end allows the peer to open.
#[derive(Debug)]
struct Grant {
    granted: AtomicU32,
    open: AtomicU32,
}

impl Tunnel {
    fn new(connection: quinn::Connection) -> Self {
        let streams = Grant { granted: AtomicU32::new(FIRST_STREAMS), open: AtomicU32::new(0) };
        Self { connection, streams: Arc::new(streams) }
    }

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Datagrams received from the peer so far.
    pub(crate) fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Datagrams so far, both ways.
    pub(crate) fn traffic(&self) -> Traffic {
        let stats = self.connection.stats();
        Traffic { sent: stats.udp_tx.datagrams, received: stats.udp_rx.datagrams }
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.connection.rtt()
    }

    /// Asks the peer's host whether anything listens on the peer's port: a
    /// process that was killed says no goodbye, but its kernel answers a
    /// datagram with "port unreachable". False when nothing was learnt.
    pub(crate) async fn is_port_closed(&self) -> bool {
        let remote = self.remote();
        let any: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let asked = async {
            // At once, when this is polled first: what else goes to a closed port uses
            // up the answers that its kernel gives.
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            socket.connect(remote)?;
            socket.send(PROBE)?;
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            loop {
                if let Ok(answer) = tokio::time::timeout(PROBE_AGAIN, socket.recv(&mut [0; 1])).await {
                    return answer;
                }
                socket.send(PROBE).await?;
            }
        };
        matches!(
            tokio::time::timeout(PROBE_LIMIT, asked).await,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused
        )
    }

    pub(crate) fn nudge(&self) {
        congestion::nudge(&self.connection);
    }

    pub(crate) async fn open(&self) -> Result<any::Stream, OpenError> {
        let (send, recv) = self.connection.open_bi().await.map_err(|e| OpenError::Lost(e.to_string()))?;
        Ok(Stream::new(send, recv).into())
    }

    pub(crate) async fn accept(&self) -> Result<any::Stream, TunnelClosed> {
        let (send, recv) = self.connection.accept_bi().await.map_err(|e| TunnelClosed(e.to_string()))?;
        let open = self.streams.open.fetch_add(1, Ordering::Relaxed) + 1;
        let granted = self.streams.granted.load(Ordering::Relaxed);
        if open > granted / 2 && granted < MAX_STREAMS {
            let more = (granted * 4).min(MAX_STREAMS);
            self.streams.granted.store(more, Ordering::Relaxed);
            self.connection.set_max_concurrent_bi_streams(more.into());
        }
        let mut stream = Stream::new(send, recv);
        stream.open = Some(OpenStream(Arc::clone(&self.streams)));
        Ok(stream.into())
    }

    pub(crate) fn close(&self, why: &str) {
        self.connection.close(VarInt::from_u32(0), why.as_bytes());
    }

    pub(crate) async fn closed(&self) -> TunnelClosed {
        TunnelClosed(self.connection.closed().await.to_string())
    }
}

/// Counts an accepted stream until it is dropped.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<Grant>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
