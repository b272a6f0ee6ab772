//! Stalled connections do not disturb other connections on the same agent, however
//! many stall.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tunnel::transport::Link;
use tunnel_client::{Connection, Options, grpc};
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{Cluster, Frontend, LINKS, Target, Task, node, promptly, spawn, wait_for, within};

/// Stalled connections, on all frontends together.
const STALLED: usize = 64;

/// A healthy transfer.
const HEALTHY: Header = Header { seed: 77, len: 32 << 20 };

/// Limit of a round trip. Behind a stalled stream one takes longer, or never ends.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// The frontend of the n-th connection.
fn frontend(n: usize) -> Frontend {
    Frontend::ALL[n % Frontend::ALL.len()]
}

/// Waits until a count stops growing: then all windows and buffers are full.
async fn wait_until_still(what: &str, count: impl Fn() -> u64) {
    const STILL: Duration = Duration::from_millis(200);
    let mut before = 0;
    wait_for(what, async || {
        // Not a wait for a condition: the interval is what is observed.
        sleep(STILL).await;
        let last = std::mem::replace(&mut before, count());
        if last == before && last > 0 { Ok(()) } else { Err(format!("{last} and then {before} bytes")) }
    })
    .await;
}

async fn round_trips(cluster: &Cluster, link: Link) {
    let echo = Target::echo(node(link)).await;
    for frontend in Frontend::ALL {
        let mut connection = cluster.server.connect(frontend, &echo).await;
        for round in 0..50 {
            let ping = async {
                payload::write(&mut connection, &[round]).await.unwrap();
                assert_eq!(connection.read_u8().await.unwrap(), round);
            };
            let is_prompt = promptly(ROUND_TRIP, ping).await.is_some();
            assert!(is_prompt, "{frontend:?}: round trip {round}");
        }
        connection.close().await.unwrap();
    }
}

async fn download(cluster: &Cluster, link: Link) {
    let source = Target::source(node(link)).await;
    for frontend in Frontend::ALL {
        let mut connection = cluster.server.connect(frontend, &source).await;
        payload::write(&mut connection, &HEALTHY.encode()).await.unwrap();
        let all = within("a healthy download", payload::read_all(&mut connection)).await.unwrap();
        payload::assert_is(&all, HEALTHY.seed, HEALTHY.len);
    }
}

async fn upload(cluster: &Cluster, link: Link) {
    let sink = Target::sink(node(link)).await;
    for (frontend, seed) in Frontend::ALL.into_iter().zip(100..) {
        let header = Header { seed, ..HEALTHY };
        let mut connection = cluster.server.connect(frontend, &sink).await;
        let bytes = header.with_payload();
        within("a healthy upload", payload::write(&mut connection, &bytes)).await.unwrap();
        connection.close().await.unwrap();
        let report = sink.report(seed).await;
        assert_eq!(report.digest, payload::digest(&payload::bytes(seed, header.len)), "{frontend:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_stop_reading_hold_up_nobody() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let flood = Target::floods(node(link)).await;
        let mut stalled: Vec<Connection> = Vec::new();
        for n in 0..STALLED {
            let mut connection = cluster.server.connect(frontend(n), &flood).await;
            let mut begun = vec![0; 100_000];
            within("the beginning", connection.read_exact(&mut begun)).await.unwrap();
            stalled.push(connection);
        }
        wait_until_still("the downloads to stall", || flood.moved()).await;

        round_trips(&cluster, link).await;
        download(&cluster, link).await;
        upload(&cluster, link).await;
        drop(stalled);
        drop(flood);
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_stop_reading_hold_up_nobody() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let stalls = Target::stalls(node(link)).await;
        let moved = Arc::new(AtomicU64::new(0));
        let mut stalled: Vec<Task> = Vec::new();
        for n in 0..STALLED {
            let mut connection = cluster.server.connect(frontend(n), &stalls).await;
            let moved = Arc::clone(&moved);
            stalled.push(spawn(async move {
                let block = vec![0x33; 32 * 1024];
                loop {
                    let n = connection.write(&block).await.unwrap();
                    moved.fetch_add(n as u64, Ordering::Relaxed);
                }
            }));
        }
        wait_until_still("the uploads to stall", || moved.load(Ordering::Relaxed)).await;

        round_trips(&cluster, link).await;
        download(&cluster, link).await;
        upload(&cluster, link).await;
        drop(stalled);
        drop(stalls);
        cluster.finish().await;
    }
}

/// Newer kube-apiservers make all dials on one HTTP/2 connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_stop_reading_hold_up_no_other_call_of_their_connection() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let flood = Target::floods(node(link)).await;
        let source = Target::source(node(link)).await;
        let endpoint = cluster.server.endpoint(Frontend::GrpcUnix);
        let channel = grpc::Channel::open(&endpoint, &Options::default()).await.unwrap();
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            stalled.push(within("a dial", channel.dial(&flood.to_string())).await.unwrap());
        }
        wait_until_still("the downloads to stall", || flood.moved()).await;

        let mut connection = within("a dial", channel.dial(&source.to_string())).await.unwrap();
        payload::write(&mut connection, &HEALTHY.encode()).await.unwrap();
        let all = within("a healthy download", payload::read_all(&mut connection)).await.unwrap();
        payload::assert_is(&all, HEALTHY.seed, HEALTHY.len);
        drop((stalled, connection, channel, flood));
        cluster.finish().await;
    }
}

/// Back-pressure reaches the target of a client that stops reading; no process keeps
/// the unread bytes in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_felt_by_its_target() {
    // Windows and socket buffers of five hops. A hop without a bound would have
    // taken gigabytes by now.
    const BOUND: u64 = 64 << 20;
    let cluster = Cluster::on_both_links().await;
    tunnel_tests::for_each_combination(async |frontend, link| {
        let flood = Target::floods(node(link)).await;
        let connection = cluster.server.connect(frontend, &flood).await;
        wait_until_still("the download to stall", || flood.moved()).await;
        assert!(flood.moved() < BOUND, "{} bytes on their way", flood.moved());
        drop(connection);
    })
    .await;
    cluster.finish().await;
}
