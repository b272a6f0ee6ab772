//! A stream's flow-control window on QUIC, by the round-trip time of its tunnel.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tunnel::duplex::{Batch, Duplex as _};
use tunnel::listen::bind_both;
use tunnel::stream::Stream;
use tunnel::tls::Identity;
use tunnel::transport::quic::{Datagrams, Dialer, Distance, Listener};
use tunnel::transport::{Link, Offered, Tunnel};
use tunnel_tests::{Agent, AgentSpec, Canary, Cluster, Frontend, Target, Who, Wire, node, within};

const NODE: Ipv4Addr = node(Link::Quic);

/// Delay one way. The round-trip time of 30 ms is far above the 10 ms from which a server
/// counts as far.
const DELAY: Duration = Duration::from_millis(15);

/// A stream that takes no byte for this long has filled its window.
const STILL: Duration = Duration::from_millis(300);

const MIB: usize = 1 << 20;

/// Writes until the window is full; the number of bytes taken.
async fn taken(stream: &mut Stream) -> usize {
    const ALL: usize = 16 * MIB;
    let mut batch = Batch::default();
    (0..ALL / MIB).for_each(|_| batch.push(Bytes::from(vec![0x33; MIB])));
    let writing = poll_fn(|cx| stream.poll_send(cx, &mut batch));
    assert!(timeout(STILL, writing).await.is_err(), "there is no window");
    ALL - batch.len()
}

async fn say(stream: &mut Stream, word: &'static [u8]) {
    let mut batch = Batch::default();
    batch.push(Bytes::from_static(word));
    poll_fn(|cx| stream.poll_send(cx, &mut batch)).await.unwrap();
}

/// Whether a client's first datagram says that the client is far away: its destination
/// id, in the clear behind a type, a version and a length (RFC 9000 section 17.2).
fn says_far(datagram: &[u8]) -> bool {
    let id = &datagram[6..][..usize::from(datagram[5])];
    id.ends_with(b"far away")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_of_a_far_tunnel_have_larger_windows() {
    let cluster = Cluster::builder().start().await;
    let pki = &cluster.pki;
    let secret =
        Identity::load(&pki.cert(Who::Server), &pki.key(Who::Server)).unwrap().derived_secret("test");
    let (_tcp, udp) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let (at, datagrams) = (udp.local_addr().unwrap(), Datagrams::of_this_host());
    let listener = Listener::new(udp, pki.agent_listener(), &secret, datagrams).unwrap();
    let dialer = Dialer::new((Ipv4Addr::LOCALHOST, 0).into(), datagrams).unwrap();
    for (distance, window) in [(Distance::Near, MIB), (Distance::Far, 4 * MIB)] {
        let dialing = async {
            let dialed = dialer.connect(at, "127.0.0.1", pki.agent(Who::Agent), distance);
            let (tunnel, mut control) = Box::pin(dialed).await.unwrap();
            // The server learns of the control stream with its first bytes.
            say(&mut control, b"x").await;
            (Tunnel::Quic(tunnel), control)
        };
        let accepting = async { Box::pin(listener.next().await.unwrap().accept()).await.unwrap() };
        let both = async { tokio::join!(dialing, accepting) };
        let ((agent, _control), (server, _controlled)) = within("a tunnel", both).await;
        let mut down = within("a stream", Tunnel::Quic(server).open()).await.unwrap();
        say(&mut down, b"x").await;
        let Offered::Stream(mut up) = within("the stream", agent.accept()).await.unwrap() else {
            panic!("a dial without a stream");
        };
        assert_eq!(taken(&mut up).await, window, "by the server, {distance:?}");
        assert_eq!(taken(&mut down).await, window - 1, "by the agent, {distance:?}");
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_to_a_far_server_is_replaced() {
    let cluster = Cluster::builder().start().await;
    let wire = Wire::to(cluster.server.agents).await;
    wire.delay(DELAY);
    let agent = Agent::start(&cluster.pki, &[wire.addr], &AgentSpec::new("far", Link::Quic, NODE));
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo(NODE).await;
    let first = Canary::new("first".to_owned(), cluster.server.connect(Frontend::ConnectUnix, &echo).await);

    // The first tunnel carries the canary to its end, and then closes.
    cluster.server.wait_for_tunnels(2).await;
    let said: Vec<bool> = wire.first_datagrams().iter().map(|first| says_far(first)).collect();
    assert_eq!(said, [false, true], "each tunnel has a port of its own");
    let second = Canary::new("second".to_owned(), cluster.server.connect(Frontend::ConnectUnix, &echo).await);
    for canary in [&first, &second] {
        canary.sings_since(canary.round()).await;
    }
    drop(first);
    cluster.server.wait_for_tunnels(1).await;
    second.sings_since(second.round()).await;
    drop(second);
    cluster.server.wait_until_idle().await;
    agent.wait_until_idle().await;
    cluster.finish().await;
}
