use std::future::poll_fn;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::*;
use crate::duplex::{Batch, Flow};

const SENT: usize = 8 << 20;

/// Carries bytes one way, each of which takes `delay`.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>, delay: Duration) {
    let (put, mut take) = mpsc::channel(4096);
    let receive = async move {
        loop {
            let mut chunk = Vec::with_capacity(64 * 1024);
            match from.read_buf(&mut chunk).await {
                Ok(n) if n > 0 => put.send((Instant::now() + delay, chunk)).await.unwrap(),
                Ok(_) | Err(_) => return,
            }
        }
    };
    let send = async {
        while let Some((at, chunk)) = take.recv().await {
            sleep_until(at).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(receive, send);
}

/// A tunnel on a network with this round trip, as the server and the agent see it.
async fn tunnel(round_trip: Duration, drain: &Drain) -> (Tunnel, Tunnel) {
    let (server, near) = duplex(1 << 20);
    let (agent, far) = duplex(1 << 20);
    let ((from_server, to_server), (from_agent, to_agent)) = (split(near), split(far));
    drain.spawn("way down", carry(from_server, to_agent, round_trip / 2));
    drain.spawn("way up", carry(from_agent, to_server, round_trip / 2));
    let addr = "192.0.2.1:1".parse().unwrap();
    let (server, agent) = tokio::join!(accept(server, addr, drain), connect(agent, addr, drain));
    // Nothing is said on the control streams.
    (server.unwrap().0, agent.unwrap().0)
}

/// How long an agent takes to send something to a server that reads at once.
async fn download(server: &Tunnel, agent: &Tunnel) -> Duration {
    let (from, to) = tokio::join!(server.open(), agent.accept());
    let (mut from, mut to) = (from.unwrap(), to.unwrap());
    let began = Instant::now();
    let send = async {
        let mut batch = Batch::default();
        for _ in 0..SENT / 65_536 {
            batch.push(Bytes::from_static(&[7; 65_536]));
            poll_fn(|cx| to.poll_send(cx, &mut batch)).await.unwrap();
        }
    };
    let receive = async {
        let (mut batch, mut read) = (Batch::default(), 0);
        while read < SENT {
            assert_eq!(poll_fn(|cx| from.poll_recv(cx, &mut batch)).await, Ok(Flow::More));
            let n = batch.clear();
            from.consumed(n);
            read += n;
        }
    };
    tokio::join!(send, receive);
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_long_way_has_a_window_that_keeps_it_busy() {
    let drain = Drain::new();
    let (server, agent) = tunnel(Duration::from_millis(100), &drain).await;
    sleep(Duration::from_secs(1)).await;
    let took = download(&server, &agent).await;
    // Two windows of 4 MiB, and not ten of the least.
    assert!(took < Duration::from_millis(500), "{took:?}");
    server.close("the test is over");
    drain.kill();
}

/// As of a kube-apiserver that comes back with many watches behind one agent.
#[tokio::test(start_paused = true)]
async fn streams_that_come_at_once_are_all_taken() {
    const STREAMS: usize = 8 * ACCEPT_QUEUE;
    let drain = Drain::new();
    let (server, agent) = tunnel(Duration::from_millis(1), &drain).await;
    let (mut opened, mut taken) = (Vec::new(), Vec::new());
    let open = async {
        for _ in 0..STREAMS {
            opened.push(server.open().await.unwrap());
        }
    };
    let take = async {
        while taken.len() < STREAMS {
            taken.push(agent.accept().await.unwrap());
        }
    };
    let all = timeout(Duration::from_secs(5), async { tokio::join!(open, take) }).await;
    assert!(all.is_ok(), "{} of {STREAMS} were taken", taken.len());
    drain.kill();
}
