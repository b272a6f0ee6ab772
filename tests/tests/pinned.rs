//! Memory of stalled connections.
//!
//! Both ends run on the test's own thread, whose allocations are counted: the memory
//! of both ends, and of no other test.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]

use std::time::Duration;

use allocation_counter::measure;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Builder;
use tokio::time::timeout;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_tests::{Cluster, Frontend, LINKS, Target, node, spawn, within};

/// Connections whose targets do not read.
const STALLED: usize = 16;

/// Bytes that one of them may hold: the flow-control window of its stream, and 1 MiB that
/// sender and relays hold beyond it.
const fn pinned(link: Link) -> i64 {
    const BEYOND: i64 = 1 << 20;
    match link {
        Link::Quic => (4 << 20) + BEYOND,
        Link::H2 | Link::Konnectivity => (1 << 20) + BEYOND,
    }
}

/// A connection that takes nothing for this long is full.
const STILL: Duration = Duration::from_secs(1);

async fn fill(mut connection: Connection) -> Connection {
    let block = vec![0x33; 16 * 1024];
    // Not a wait for a condition: the interval is what is observed.
    while let Ok(taken) = timeout(STILL, connection.write(&block)).await {
        taken.unwrap();
    }
    connection
}

/// Fills many connections at once, so that their datagrams alternate.
async fn stall(cluster: &Cluster, target: &Target) -> Vec<Connection> {
    let mut filling = Vec::new();
    for _ in 0..STALLED {
        let connection = cluster.server.connect(Frontend::ConnectUnix, target).await;
        filling.push(spawn(fill(connection)));
    }
    let mut stalled = Vec::new();
    for fill in filling {
        stalled.push(within("a stalled upload", fill.join()).await);
    }
    stalled
}

#[test]
fn targets_that_do_not_read_pin_no_more_than_their_windows() {
    for link in LINKS {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let cluster = runtime.block_on(Cluster::on(link));
        let target = runtime.block_on(Target::stalls(node(link)));
        let mut stalled = Vec::new();
        let held = measure(|| stalled = runtime.block_on(stall(&cluster, &target))).bytes_current;
        println!("{link:?}: {} bytes for each of {STALLED}", held / STALLED as i64);
        assert!(held <= pinned(link) * STALLED as i64, "{link:?}: {held} bytes for {STALLED} connections");
        runtime.block_on(async {
            drop((stalled, target));
            cluster.finish().await;
        });
    }
}
