//! Listening sockets: TCP, Unix, and TCP with UDP on one port number.

mod crowd;
mod unix;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::transport::quic::bind_udp;

pub use crowd::{Crowd, Spot, source};
pub use unix::{Change, Observer, Place, Presence, UnixSocket};

/// Connections that wait to be accepted. Fewer would refuse connections in bursts of dials.
const BACKLOG: i32 = 4096;

/// Pause after an accept that failed for lack of file descriptors or memory. Shorter uses up
/// a processor; longer delays clients.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// `TCP_USER_TIMEOUT` of links. Shorter ends tunnels in short blackouts; longer finds dead
/// peers later.
const TCP_PATIENCE: Duration = Duration::from_secs(30);

/// Bytes that a link's socket buffers beyond those in flight (`TCP_NOTSENT_LOWAT`). Fewer let
/// the network idle; more delay other streams' bytes.
const UNSENT: u32 = 128 * 1024;

/// Largest TCP segment on paths that lose large packets, in bytes: Linux's own answer to them
/// (`net.ipv4.tcp_base_mss`). Larger ones vanish in tunnels within tunnels; smaller ones cost
/// processor time.
const SMALL_SEGMENT: u32 = 1024;

/// Reads a bind address as Go programs do. An empty text means every address. A name
/// (`localhost`) means one of its addresses, of IPv4 if it has one. Blocks while a name is
/// looked up.
///
/// # Errors
/// When the text is neither an IP address nor a known name.
pub fn bind_ip(text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse() {
        return Ok(Some(ip));
    }
    let found = (text, 0).to_socket_addrs();
    let found = found.map_err(|error| format!("{text:?} is no ip address, and no name: {error}"))?;
    let chosen = found.min_by_key(SocketAddr::is_ipv6);
    chosen.map(|addr| Some(addr.ip())).ok_or_else(|| format!("{text:?} stands for no ip address"))
}

/// Listens on TCP. `None` is every address, of IPv6 and IPv4 where both exist.
///
/// # Errors
/// When the address is not available.
pub fn bind_tcp(ip: Option<IpAddr>, port: u16) -> io::Result<TcpListener> {
    match ip {
        Some(ip) => tcp(SocketAddr::new(ip, port)),
        None => tcp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port))
            .or_else(|_| tcp(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))),
    }
}

fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(addr),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Listens on TCP and UDP with one port number. With port 0 the kernel chooses a port that
/// is free on both.
///
/// # Errors
/// When the port is not available on both.
pub fn bind_both(ip: Option<IpAddr>, port: u16) -> io::Result<(TcpListener, std::net::UdpSocket)> {
    const TRIES: usize = 16;
    let mut last = None;
    for _ in 0..if port == 0 { TRIES } else { 1 } {
        let listener = bind_tcp(ip, port)?;
        match bind_udp(listener.local_addr()?) {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse)))
}

/// Options of every TCP connection: no delay for small packets, and keep-alive.
///
/// Without `TCP_USER_TIMEOUT`, which would also end a peer that lives and does not read
/// (tcp(7)); clients and targets may pause for as long as they like.
pub fn tune(tcp: &TcpStream) {
    let socket = socket2::SockRef::from(tcp);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    // A kernel without one of the options still carries the bytes.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

/// As [`tune`], for a link. Its peer always reads, so one that takes nothing for half a minute
/// is dead. Bytes to be sent wait in this process, where streams take turns, and not in the
/// kernel's queue.
pub fn tune_link(tcp: &TcpStream) {
    tune(tcp);
    let socket = socket2::SockRef::from(tcp);
    let _ = socket.set_tcp_user_timeout(Some(TCP_PATIENCE));
    let _ = socket.set_tcp_notsent_lowat(UNSENT);
}

/// Connects with small segments in both directions, since the peer learns their size in TCP's
/// handshake. Cancel safe.
///
/// # Errors
/// As [`TcpStream::connect`].
pub async fn connect_small(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A kernel without the option still carries the bytes.
    let _ = socket2::SockRef::from(&socket).set_tcp_mss(SMALL_SEGMENT);
    socket.connect(addr).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn small_segments_are_small_in_both_directions() {
        let listener = bind_tcp(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let dialled = connect_small(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for end in [&dialled, &accepted] {
            let mss = socket2::SockRef::from(end).tcp_mss().unwrap();
            assert!(mss <= SMALL_SEGMENT, "{mss} bytes");
        }
    }

    #[test]
    fn bind_addresses_as_manifests_write_them() {
        assert_eq!(bind_ip(""), Ok(None));
        assert_eq!(bind_ip("127.0.0.1"), Ok(Some(Ipv4Addr::LOCALHOST.into())));
        assert_eq!(bind_ip("::1"), bind_ip("[::1]"));
        assert!(bind_ip("localhost").unwrap().unwrap().is_loopback());
        for bad in ["127.0.0.1:80", "no such name", "[::1]:80"] {
            assert!(bind_ip(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn only_the_peer_of_a_link_has_to_read_and_little_waits_for_it_in_the_kernel() {
        let listener = bind_tcp(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = socket2::SockRef::from(&tcp);
        tune(&tcp);
        assert!(socket.tcp_user_timeout().unwrap().is_none_or(|limit| limit.is_zero()));
        tune_link(&tcp);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_PATIENCE));
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT);
    }

    #[tokio::test]
    async fn one_port_number_for_both_protocols() {
        let (tcp, udp) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        assert_eq!(tcp.local_addr().unwrap(), udp.local_addr().unwrap());
    }
}
