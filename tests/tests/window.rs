//! The flow-control window of a stream on QUIC.

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
use tunnel::transport::quic::{Datagrams, Dialer, Listener};
use tunnel_tests::{Cluster, Who, within};

/// A stream that takes no byte for so many times this long has filled its window. Once, nothing may have run.
const STILL: Duration = Duration::from_millis(150);
const TIMES: u32 = 4;

const MIB: usize = 1 << 20;

/// The window, in bytes: `STREAM_WINDOW` of the link.
const WINDOW: usize = 4 * MIB;

/// Writes until the window is full. Returns the number of bytes taken.
async fn taken(stream: &mut Stream) -> usize {
    const ALL: usize = 16 * MIB;
    let mut batch = Batch::default();
    (0..ALL / MIB).for_each(|_| batch.push(Bytes::from(vec![0x33; MIB])));
    let mut still = 0;
    while still < TIMES {
        let before = batch.len();
        let writing = poll_fn(|cx| stream.poll_send(cx, &mut batch));
        assert!(timeout(STILL, writing).await.is_err(), "there is no window");
        still = if batch.len() == before { still + 1 } else { 0 };
    }
    ALL - batch.len()
}

async fn say(stream: &mut Stream, word: &'static [u8]) {
    let mut batch = Batch::default();
    batch.push(Bytes::from_static(word));
    poll_fn(|cx| stream.poll_send(cx, &mut batch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_end_of_a_stream_on_quic_holds_its_window_and_no_more() {
    let cluster = Cluster::builder().start().await;
    let pki = &cluster.pki;
    let secret =
        Identity::load(&pki.cert(Who::Server), &pki.key(Who::Server)).unwrap().derived_secret("test");
    let (_tcp, udp) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
    let (at, datagrams) = (udp.local_addr().unwrap(), Datagrams::of_this_host());
    let listener = Listener::new(udp, pki.agent_listener(), &secret, datagrams).unwrap();
    let dialer = Dialer::new((Ipv4Addr::LOCALHOST, 0).into(), datagrams).unwrap();
    let dialing = async {
        let dialed = dialer.connect(at, "127.0.0.1", pki.agent(Who::Agent));
        let (tunnel, control) = Box::pin(dialed).await.unwrap();
        let mut control = Stream::from(control);
        // The server learns of the control stream with its first bytes.
        say(&mut control, b"x").await;
        (tunnel, control)
    };
    let accepting = async { Box::pin(listener.next().await.unwrap().accept()).await.unwrap() };
    let both = async { tokio::join!(dialing, accepting) };
    let ((agent, _control), (server, _controlled)) = within("a tunnel", both).await;
    let mut down = Stream::from(within("a stream", server.open()).await.unwrap());
    say(&mut down, b"x").await;
    let mut up = Stream::from(within("the stream", agent.accept()).await.unwrap());
    assert_eq!(taken(&mut up).await, WINDOW, "by the server");
    assert_eq!(taken(&mut down).await, WINDOW - 1, "by the agent");
    cluster.finish().await;
}
