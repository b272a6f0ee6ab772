//! Peers that break a protocol, on every listener.
//!
//! After each attack: an answer or an end for that peer alone, a counter that has
//! moved, no panic, and connections beside it on which every byte is right.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod agents;
mod connect;
mod dials;
mod grpc;
mod http2;
mod slow;
mod strangers;
mod tls;
mod vanished;

use tunnel_tests::raw::read_to_any_end;
use tunnel_tests::{Canary, Cluster, Frontend, LINKS, Target, node, wait_for, within};

use tokio::io::AsyncWriteExt as _;
use tunnel_tests::raw::Io;

/// Rejected clients.
const CLIENTS: &str = "tunnel_server_bad_clients_total";

/// Rejected agents.
const AGENTS: &str = "tunnel_server_rejected_agents_total";

/// Dials, with their outcome.
const DIALS: &str = "tunnel_server_dials_total";

/// A cluster with a canary on each pair of frontend and link.
struct Siege {
    cluster: Cluster,
    canaries: Vec<Canary>,
    /// One on each link's node.
    echoes: Vec<Target>,
}

impl Siege {
    async fn begin() -> Self {
        Self::of(Cluster::on_both_links().await).await
    }

    /// On a cluster with an agent on each link.
    async fn of(cluster: Cluster) -> Self {
        let (mut echoes, mut canaries) = (Vec::new(), Vec::new());
        for link in LINKS {
            let echo = Target::echo(node(link)).await;
            for frontend in Frontend::ALL {
                let name = format!("{frontend:?} over {}", link.label());
                canaries.push(Canary::new(name, cluster.server.connect(frontend, &echo).await));
            }
            echoes.push(echo);
        }
        Self { cluster, canaries, echoes }
    }

    /// Runs an attack. A counter must have moved after it, and the canaries
    /// must go on.
    async fn attack<T>(
        &self,
        what: &str,
        (counter, label): (&str, &str),
        attack: impl Future<Output = T>,
    ) -> T {
        let count = async || {
            let metrics = self.cluster.server.metrics().await;
            (metrics.sum(counter, &[label]), metrics)
        };
        let (before, _) = count().await;
        let result = within(what, attack).await;
        wait_for(&format!("{counter} with {label} to move after {what}"), async || {
            let (now, metrics) = count().await;
            if now > before { Ok(()) } else { Err(metrics.show("tunnel_server")) }
        })
        .await;
        self.canaries_sing().await;
        result
    }

    /// Waits until every canary has made a round trip that began after this call.
    async fn canaries_sing(&self) {
        let before: Vec<u64> = self.canaries.iter().map(Canary::round).collect();
        for (canary, before) in self.canaries.iter().zip(before) {
            canary.sings_since(before).await;
        }
    }

    async fn end(self) {
        let Self { cluster, canaries, echoes } = self;
        drop(canaries);
        cluster.finish().await;
        drop(echoes);
    }
}

/// Sends bytes and reads to the peer's end at the same time, because an answer may
/// come before all bytes were sent. Returns the answer.
async fn say(io: Box<dyn Io>, bytes: &[u8]) -> String {
    let (mut from, mut to) = tokio::io::split(io);
    let send = async {
        // The server may have closed already.
        let _ = to.write_all(bytes).await;
        let _ = to.flush().await;
    };
    let ((), answer) = tokio::join!(send, read_to_any_end(&mut from));
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends bytes and leaves.
async fn say_and_leave(mut io: Box<dyn Io>, bytes: &[u8]) -> String {
    io.write_all(bytes).await.unwrap();
    io.shutdown().await.unwrap();
    String::from_utf8_lossy(&read_to_any_end(&mut io).await).into_owned()
}
