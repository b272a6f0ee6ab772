//! Asks the kernel of a peer's host whether the peer's process is gone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::sync::Semaphore;

/// One byte, which is no QUIC packet: a living peer ignores it.
const PROBE: &[u8] = &[0];

/// Time for the kernel's answer.
const PROBE_LIMIT: Duration = Duration::from_millis(900);

/// Interval of probes within [`PROBE_LIMIT`]. A kernel answers six datagrams to closed ports
/// at once and then one per second (icmp(7), `icmp_ratelimit`). QUIC's datagrams use up
/// answers, too, so fewer probes are answered later.
const PROBE_AGAIN: Duration = Duration::from_millis(150);

/// Probes at once, each with a socket of its own, because only a connected one hears of ICMP errors.
/// Fewer find killed peers late after the loss of many; more take files from connections.
const PROBES: usize = 64;

static FREE: Semaphore = Semaphore::const_new(PROBES);

/// Whether the kernel of the peer's host answers "port unreachable". A process that was
/// killed sends no close, but its kernel answers a datagram to its port. False when nothing
/// was learnt, after 0.9 s at most, and
/// its turn. Cancel safe.
pub(super) async fn is_port_closed(remote: SocketAddr) -> bool {
    // Never closed.
    let Ok(_turn) = FREE.acquire().await else { return false };
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let asked = async {
        // Without a wait before: other datagrams to a closed port use up its answers.
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[tokio::test]
    async fn many_probes_take_few_sockets() {
        let silent = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        silent.set_nonblocking(true).unwrap();
        let addr = silent.local_addr().unwrap();
        let mut probes = tokio::task::JoinSet::new();
        for _ in 0..3 * PROBES {
            probes.spawn(is_port_closed(addr));
        }
        assert!(!probes.join_next().await.unwrap().unwrap());
        let mut seen = HashSet::new();
        while let Ok((_, from)) = silent.recv_from(&mut [0; 1]) {
            seen.insert(from);
        }
        // Probes that were ready together with the first have been followed by others.
        assert!((1..=2 * PROBES).contains(&seen.len()), "{}", seen.len());
        while let Some(done) = probes.join_next().await {
            assert!(!done.unwrap());
        }
    }
}
