//! An agent's choice of link, and streams on QUIC.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tunnel::duplex::{Batch, Broken, Duplex as _, End, Flow};
use tunnel::stream::Stream;
use tunnel::tls::Secret;
use tunnel::transport::quic::{self, Datagrams};
use tunnel::transport::{Link, Tunnel};
use tunnel_proto::message::Dial;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, LINKS, Pki, Server, Target, TcpOnly, Who, node, wait_for, within,
};

const NODE: std::net::Ipv4Addr = node(Link::Quic);

async fn transfer(server: &Server) {
    let source = Target::source(NODE).await;
    let mut connection = server.connect(Frontend::ConnectUnix, &source).await;
    let header = Header { seed: 3, len: 1 << 20 };
    payload::write(&mut connection, &header.encode()).await.unwrap();
    let all = within("a transfer", payload::read_all(&mut connection)).await.unwrap();
    payload::assert_is(&all, header.seed, header.len);
}

async fn tunnels(server: &Server, link: Link) -> i64 {
    let label = format!("link=\"{}\"", link.label());
    server.metrics().await.sum("tunnel_server_tunnels", &[&label])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_takes_quic_where_it_works() {
    let spec = AgentSpec::new("auto", Link::Quic, NODE).flag("transport", "auto");
    let cluster = Cluster::builder().agent(spec).start().await;
    assert_eq!(
        (tunnels(&cluster.server, Link::Quic).await, tunnels(&cluster.server, Link::H2).await),
        (1, 0)
    );
    transfer(&cluster.server).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_takes_h2_where_udp_is_blocked() {
    let cluster = Cluster::builder().start().await;
    let way = TcpOnly::to(cluster.server.agents);
    let spec = AgentSpec::new("auto", Link::Quic, NODE).flag("transport", "auto");
    let agent = Agent::start(&cluster.pki, &[way.addr], &spec);
    cluster.server.wait_for_tunnels(1).await;
    assert_eq!(
        (tunnels(&cluster.server, Link::Quic).await, tunnels(&cluster.server, Link::H2).await),
        (0, 1)
    );
    transfer(&cluster.server).await;
    agent.wait_until_idle().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_alone_does_not_fall_back() {
    let cluster = Cluster::builder().start().await;
    let way = TcpOnly::to(cluster.server.agents);
    let agent = Agent::start(
        &cluster.pki,
        &[way.addr],
        &AgentSpec::new("quic", Link::Quic, NODE).flag("transport", "quic"),
    );
    // The limit of an attempt is ten seconds.
    wait_for("a failed attempt", async || {
        let metrics = agent.metrics().await;
        match metrics.sum("tunnel_agent_tunnel_attempts_total", &["link=\"quic\"", "outcome=\"timeout\""]) {
            0 => Err(metrics.show("tunnel_agent")),
            _ => Ok(()),
        }
    })
    .await;
    let metrics = agent.metrics().await;
    assert_eq!(metrics.sum("tunnel_agent_tunnel_attempts_total", &["link=\"h2\""]), 0);
    assert_eq!(agent.readiness().await.unwrap().0, 503);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_takes_the_link_it_is_told() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        assert_eq!(tunnels(&cluster.server, link).await, 1);
        let attempts = cluster.agents[0].metrics().await;
        let label = format!("link=\"{}\"", link.label());
        let of_link = attempts.sum("tunnel_agent_tunnel_attempts_total", &[&label]);
        assert_eq!(attempts.sum("tunnel_agent_tunnel_attempts_total", &[]), of_link);
        cluster.finish().await;
    }
}

async fn send(stream: &mut Stream, bytes: impl Into<Bytes>) {
    let mut batch = Batch::default();
    batch.push(bytes.into());
    poll_fn(|cx| stream.poll_send(cx, &mut batch)).await.unwrap();
}

/// A server and an agent on QUIC, without programs around them.
async fn quic_tunnel(pki: &Pki) -> (quic::Tunnel, quic::Tunnel, Stream) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let (addr, datagrams) = (socket.local_addr().unwrap(), Datagrams::of_this_host());
    let secret = Secret::derived(b"a key", "tests");
    let listener = quic::Listener::new(socket, pki.agent_listener(), &secret, datagrams).unwrap();
    let dialer = quic::Dialer::new("127.0.0.1:0".parse().unwrap(), datagrams).unwrap();
    let dialling = async {
        let (tunnel, control) = dialer.connect(addr, "127.0.0.1", pki.agent(Who::Agent)).await.unwrap();
        let mut control: Stream = control.into();
        // A stream arrives with its first byte.
        send(&mut control, &b"hello"[..]).await;
        (tunnel, control)
    };
    let accepting = async { listener.next().await.unwrap().accept().await.unwrap() };
    let ((agent, control), (server, _)) =
        within("a tunnel", async { tokio::join!(dialling, accepting) }).await;
    (server, agent, control)
}

/// quinn keeps the task of a stream that is asked for its reset once everything has come, until the connection ends,
/// and panics in debug builds when the stream is dropped.
#[tokio::test]
async fn a_stream_on_quic_may_be_watched_after_everything_has_come() {
    let dir = tempfile::TempDir::new().unwrap();
    let (server, agent, _control) = quic_tunnel(&Pki::make(dir.path())).await;
    let timeout = Duration::from_secs(5);
    let dial = Dial { target: "127.0.0.1:80".parse().unwrap(), timeout, connection_id: 1, measure: false };
    for is_connected in [false, true] {
        let mut opened = Stream::from(server.open().await.unwrap());
        send(&mut opened, dial.encode()).await;
        let mut asked = within("a dial", Tunnel::Quic(agent.clone()).accept()).await.unwrap();
        assert_eq!(asked.dial().await, Some(Ok(dial.clone())));
        send(&mut opened, &b"ping"[..]).await;
        poll_fn(|cx| opened.poll_finish(cx, End::Fin)).await.unwrap();
        within("the acknowledgement of everything", opened.settle(true)).await;
        if !is_connected {
            let mut cancelled = pin!(asked.cancelled());
            assert!(poll_fn(|cx| Poll::Ready(cancelled.as_mut().poll(cx))).await.is_pending());
        }
        let mut stream = asked.connected(([127, 0, 0, 1], 80).into(), None).await.unwrap();
        if is_connected {
            // Each look may take a byte.
            for _ in 0..3 {
                assert!(poll_fn(|cx| Poll::Ready(stream.poll_broken(cx))).await.is_pending());
            }
        }
        let mut batch = Batch::default();
        let end = loop {
            match poll_fn(|cx| stream.poll_recv(cx, &mut batch)).await.unwrap() {
                Flow::More => {}
                Flow::End(end) => break end,
            }
        };
        let bytes: Vec<u8> = batch.iter().flatten().copied().collect();
        assert_eq!((&bytes[..], end), (&b"ping"[..], End::Fin));
    }
}

/// The stream's unread bytes do not hide it.
#[tokio::test]
async fn a_reset_on_quic_is_seen_before_bytes_that_were_received() {
    let dir = tempfile::TempDir::new().unwrap();
    let (server, agent, _control) = quic_tunnel(&Pki::make(dir.path())).await;
    let mut opened = Stream::from(server.open().await.unwrap());
    send(&mut opened, vec![7; 100_000]).await;
    let mut stream = Stream::from(within("a stream", agent.accept()).await.unwrap());
    assert!(poll_fn(|cx| Poll::Ready(stream.poll_broken(cx))).await.is_pending());
    drop(opened);
    wait_for("the reset", async || {
        let broken = poll_fn(|cx| Poll::Ready(stream.poll_broken(cx))).await;
        if broken == Poll::Ready(Broken::Reset) { Ok(()) } else { Err(format!("{broken:?}")) }
    })
    .await;
}
