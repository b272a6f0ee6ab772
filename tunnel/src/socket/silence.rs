//! The end of a TCP connection whose peer acknowledges nothing of what is under way to it.
//!
//! The kernel repeats data for about fifteen minutes before it gives a vanished peer up. Its own limit,
//! `TCP_USER_TIMEOUT`, also ends a peer that lives with a closed window and answers every probe
//! (tcp(7)). `TCP_INFO` tells the two apart.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, libc, sockopt_impl};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Looks at a connection within the limit. Fewer notice a vanished peer late; more wake idle
/// connections.
const LOOKS: u32 = 4;

/// The begin of Linux's `struct tcp_info` (linux/tcp.h), up to `tcpi_last_ack_recv`, in words. The
/// kernel has only ever added fields behind it.
type Info = [u32; 15];

sockopt_impl!(TcpInfo, GetOnly, libc::IPPROTO_TCP, libc::TCP_INFO, Info);

/// Watches one connection. Idle connections of programs without the limit have none.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    /// Since when data has been repeated in vain.
    since: Option<Instant>,
}

/// The kernel's view of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    /// Data was sent again, or a probe of a closed window, and was not acknowledged.
    owes: bool,
    /// Time since its last acknowledgement.
    silent: Duration,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(sleep_until(Instant::now() + limit / LOOKS)), since: None }
    }

    /// Ready once the peer has acknowledged nothing for the limit although data is repeated.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tcp: &TcpStream) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            if self.look(Peer::of(tcp), now) {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(now + self.limit / LOOKS);
        }
    }

    fn look(&mut self, peer: Option<Peer>, now: Instant) -> bool {
        self.since = peer.filter(|peer| peer.owes).map(|peer| {
            // An acknowledgement since then begins the limit anew.
            self.since.filter(|since| now - *since <= peer.silent).unwrap_or(now)
        });
        self.since.is_some_and(|since| now - since >= self.limit)
    }
}

impl Peer {
    /// `None` of a kernel that does not tell.
    fn of(tcp: &TcpStream) -> Option<Self> {
        getsockopt(tcp, TcpInfo).ok().map(Self::read)
    }

    fn read(info: Info) -> Self {
        // State, state of congestion, retransmissions in a row, probes in a row.
        let [.., retransmits, probes] = info[0].to_ne_bytes();
        let unacked = info[6];
        // One probe is on its way to every closed window now and then.
        let owes = (unacked > 0 && retransmits > 0) || probes > 1;
        Self { owes, silent: Duration::from_millis(info[14].into()) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use socket2::{SockFilter, SockRef};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::Socket;
    use super::*;
    use crate::duplex::{Batch, Broken, Duplex as _};

    const LIMIT: Duration = Duration::from_millis(1500);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// The kernel drops every packet for this end.
    fn vanish(tcp: &TcpStream) {
        SockRef::from(tcp).attach_filter(&[SockFilter::new(libc::BPF_RET as u16, 0, 0, 0)]).unwrap();
    }

    /// Polls as a relay does that waits for the peer.
    async fn ended(socket: &mut Socket, within: Duration) -> Option<Broken> {
        let mut batch = Batch::default();
        let ended = poll_fn(|cx| socket.poll_recv(cx, &mut batch).map(Result::err));
        timeout(within, ended).await.ok().flatten()
    }

    /// Sends until the kernel takes no more.
    async fn fill(socket: &mut Socket) {
        let mut batch = Batch::default();
        batch.push(Bytes::from(vec![0; 64 << 20]));
        let sent = timeout(Duration::from_millis(300), poll_fn(|cx| socket.poll_send(cx, &mut batch)));
        assert!(sent.await.is_err(), "the kernel took all of it");
    }

    #[tokio::test]
    async fn a_peer_that_vanished_with_data_under_way_ends() {
        let (mut near, far) = pair().await;
        vanish(&far);
        let began = Instant::now();
        near.write_all(b"a request").await.unwrap();
        let mut near = Socket::from(near).ends_unacknowledged(Some(LIMIT));
        assert_eq!(ended(&mut near, 10 * LIMIT).await, Some(Broken::Io(std::io::ErrorKind::TimedOut)));
        assert!(began.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn a_peer_that_vanishes_with_a_closed_window_ends() {
        let (near, far) = pair().await;
        let mut near = Socket::from(near).ends_unacknowledged(Some(LIMIT));
        fill(&mut near).await;
        vanish(&far);
        assert!(ended(&mut near, 10 * LIMIT).await.is_some());
    }

    #[tokio::test]
    async fn a_peer_that_lives_with_a_closed_window_or_idle_stays() {
        let ((near, _far), (idle, _peer)) = (pair().await, pair().await);
        let [mut near, mut idle] = [near, idle].map(|tcp| Socket::from(tcp).ends_unacknowledged(Some(LIMIT)));
        fill(&mut near).await;
        let within = 4 * LIMIT;
        assert_eq!(tokio::join!(ended(&mut near, within), ended(&mut idle, within)), (None, None));
    }

    #[test]
    fn the_kernels_words_are_read_as_they_lie() {
        let words = |retransmits, probes, unacked| {
            let mut info = Info::default();
            info[0] = u32::from_ne_bytes([1, 0, retransmits, probes]);
            (info[6], info[14]) = (unacked, 40_000);
            Peer::read(info).owes
        };
        assert!(words(1, 0, 1) && words(0, 2, 0));
        assert!(!words(0, 0, 5) && !words(3, 0, 0) && !words(0, 1, 0));
        assert_eq!(Peer::read([1500; 15]).silent, Duration::from_millis(1500));
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_begins_the_limit_anew() {
        let second = Duration::from_secs(1);
        let (start, peer) = (Instant::now(), |silent| Some(Peer { owes: true, silent: silent * second }));
        let mut silence = Silence::new(10 * second);
        // Silent for long before the data was sent: idle.
        assert!(!silence.look(peer(500), start));
        assert!(!silence.look(peer(509), start + 9 * second));
        assert!(!silence.look(peer(1), start + 12 * second), "it has acknowledged");
        assert!(!silence.look(peer(10), start + 21 * second));
        assert!(!silence.look(Some(Peer { owes: false, silent: second }), start + 22 * second));
        assert!(!silence.look(peer(2), start + 24 * second));
        assert!(silence.look(peer(12), start + 34 * second));
        assert!(!silence.look(None, start + 40 * second));
    }
}
