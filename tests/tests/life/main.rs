//! Ends of agents, servers, clients and dials, orderly and not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod clients;
mod drains;

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tunnel_client::Connection;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Cluster, Frontend, LINKS, Server, ServerSpec, Target, node, panics, promptly, wait_for, within,
};

/// Size of a transfer that runs while something ends.
const TRANSFER: Header = Header { seed: 21, len: 8 << 20 };

/// Shorter than every timer: an end within it was noticed, not suspected.
const PROMPT: Duration = Duration::from_secs(3);

async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

/// A connection on each frontend, with a byte there and back.
async fn on_every_frontend(server: &Server, echo: &Target) -> Vec<(Frontend, Connection)> {
    let mut connections = Vec::new();
    for frontend in Frontend::ALL {
        let mut connection = server.connect(frontend, echo).await;
        ping(&mut connection).await;
        connections.push((frontend, connection));
    }
    connections
}

/// A download on each frontend of which the second half waits for the gate.
async fn half_downloads(server: &Server, source: &Target) -> Vec<(Frontend, Connection)> {
    let mut connections = Vec::new();
    for frontend in Frontend::ALL {
        let mut connection = server.connect(frontend, source).await;
        payload::write(&mut connection, &TRANSFER.encode()).await.unwrap();
        connections.push((frontend, connection));
    }
    connections
}

async fn finish_downloads(connections: Vec<(Frontend, Connection)>) {
    for (frontend, mut connection) in connections {
        let all = within("the rest of a download", payload::read_all(&mut connection)).await;
        let all = all.unwrap_or_else(|error| panic!("{frontend:?}: {error}"));
        payload::assert_is(&all, TRANSFER.seed, TRANSFER.len);
    }
}

/// Asserts that every connection has ended within `limit`, and not orderly where the
/// frontend tells the two apart.
async fn assert_cut(connections: Vec<(Frontend, Connection)>, limit: Duration) {
    for (frontend, mut connection) in connections {
        let cut = promptly(limit, payload::read_all(&mut connection)).await;
        let cut = cut.unwrap_or_else(|| panic!("{frontend:?}: not ended after {limit:?}"));
        let told = match frontend {
            Frontend::ConnectUnix => true,
            Frontend::ConnectMtls => cut.is_err(),
            Frontend::GrpcUnix | Frontend::GrpcMtls => cut.is_err() || connection.close().await.is_err(),
        };
        assert!(told, "{frontend:?}: cut, but told as an orderly end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_at_once_when_their_agent_is_killed() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let echo = Target::echo(node(link)).await;
        let connections = on_every_frontend(&cluster.server, &echo).await;
        cluster.agents[0].kill().await;
        assert_cut(connections, PROMPT).await;
        cluster.server.wait_for_tunnels(0).await;
        cluster.server.wait_until_idle().await;
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_at_once_when_their_server_is_killed() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let echo = Target::echo(node(link)).await;
        let connections = on_every_frontend(&cluster.server, &echo).await;
        cluster.server.kill().await;
        assert_cut(connections, PROMPT).await;
        // The targets' connections end as well, or they would be held for ever.
        cluster.agents[0].wait_until_idle().await;
    }
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_finds_a_new_server_on_the_same_port_by_itself() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let echo = Target::echo(node(link)).await;
        // The agent's own count may come after the server's.
        cluster.agents[0].wait_for_servers(1, 1).await;
        assert_eq!(cluster.agents[0].readiness().await.unwrap(), (200, "ok".to_owned()));
        cluster.server.kill().await;
        wait_for("the agent to miss its server", async || {
            match cluster.agents[0].readiness().await.unwrap() {
                (503, text) if text.contains("no servers connected") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;

        let mut spec = ServerSpec::new("successor");
        spec.agent_port = cluster.server.agents.port();
        let successor = wait_for("the port", async || cluster.start_server(&spec)).await;
        successor.wait_for_tunnels(1).await;
        for (_, connection) in on_every_frontend(&successor, &echo).await {
            connection.close().await.unwrap();
        }
        cluster.agents[0].wait_for_servers(1, 1).await;
        assert_eq!(cluster.agents[0].readiness().await.unwrap().0, 200);
        successor.wait_until_idle().await;
        cluster.agents[0].wait_until_idle().await;
    }
    panics::assert_none();
}
