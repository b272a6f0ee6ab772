//! Tunnels on QUIC on a bad network: streams survive a cut, a NAT that forgets, and a
//! change of address; new dials wait for none of these.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel::liveness::Patience;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, Gate, ServerSpec, Target, Way, Wire, get, node, panics, wait_for,
    within,
};

const NODE: Ipv4Addr = node(Link::Quic);

/// The usual limits, shortened for tests that wait for them.
const SHORT: Patience = Patience {
    suspect: Duration::from_millis(1500),
    limit: Duration::from_secs(60),
    heartbeat: Duration::from_millis(300),
};

/// Size of a transfer that runs during an event.
const TRANSFER: Header = Header { seed: 91, len: 8 << 20 };

async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

/// A server, and an agent that reaches it through a [`Wire`].
struct Wired {
    cluster: Cluster,
    wire: Wire,
    agent: Agent,
}

impl Wired {
    async fn new(patience: Patience) -> Self {
        let mut server = ServerSpec::new("server");
        server.patience = Some(patience);
        let cluster = Cluster::builder().server(server).start().await;
        let wire = Wire::to(cluster.server.agents).await;
        let mut spec = AgentSpec::new("agent", Link::Quic, NODE);
        spec.patience = Some(patience);
        let agent = Agent::start(&cluster.pki, &[wire.addr], &spec);
        cluster.server.wait_for_tunnels(1).await;
        Self { cluster, wire, agent }
    }

    async fn connections(&self, target: &Target) -> Vec<Connection> {
        let mut connections = Vec::new();
        for frontend in Frontend::ALL {
            connections.push(self.cluster.server.connect(frontend, target).await);
        }
        connections
    }

    /// Waits until so many tunnels are suspect at the server.
    async fn wait_for_suspects(&self, wanted: i64) {
        wait_for(&format!("{wanted} suspect tunnels"), async || {
            let metrics = self.cluster.server.metrics().await;
            match metrics.sum("tunnel_server_suspect_tunnels", &[]) == wanted {
                true => Ok(()),
                false => Err(metrics.show("tunnel_server")),
            }
        })
        .await;
    }

    async fn tunnels_closed(&self) -> i64 {
        self.cluster.server.metrics().await.sum("tunnel_server_tunnels_closed_total", &[])
    }

    /// Waits until both sides suspect each other.
    async fn cut(&self) {
        self.wire.cut(true);
        self.wait_for_suspects(1).await;
        self.agent.wait_for_servers(0, 1).await;
    }

    async fn finish(self) {
        self.cluster.server.wait_until_idle().await;
        self.agent.wait_until_idle().await;
        panics::assert_none();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_a_cut_of_the_network_during_which_nothing_is_dialled() {
    let wired = Wired::new(SHORT).await;
    let (gate, echo) = (Gate::default(), Target::echo(NODE).await);
    let source = Target::gated(NODE, gate.clone()).await;
    let mut echoes = wired.connections(&echo).await;
    for connection in &mut echoes {
        ping(connection).await;
    }
    let mut downloads = wired.connections(&source).await;
    for connection in &mut downloads {
        payload::write(connection, &TRANSFER.encode()).await.unwrap();
    }

    wired.cut().await;
    let server = &wired.cluster.server;
    let (status, text) = server.readiness().await.unwrap();
    assert_eq!((status, text.trim_end()), (500, "no connection to any proxy agent"));
    let (status, text) = get(wired.agent.health, "/readyz").await.unwrap();
    assert_eq!((status, text.contains("no servers connected")), (503, true), "{text}");
    let (_, text) = server.refusal(Frontend::ConnectUnix, &echo.to_string()).await;
    assert!(text.contains("agent agent last seen") && text.contains("No agent available"), "{text}");
    // Bytes that the target and clients send meanwhile wait.
    gate.open();
    for connection in &mut echoes {
        payload::write(connection, b"y").await.unwrap();
    }

    wired.wire.cut(false);
    for connection in &mut echoes {
        assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'y');
        ping(connection).await;
    }
    for connection in &mut downloads {
        let all = within("a download", payload::read_all(connection)).await.unwrap();
        payload::assert_is(&all, TRANSFER.seed, TRANSFER.len);
    }
    wired.agent.wait_for_servers(1, 1).await;
    wired.wait_for_suspects(0).await;
    ping(&mut server.connect(Frontend::ConnectUnix, &echo).await).await;
    drop((echoes, downloads));
    server.wait_for_tunnels(1).await;
    wired.finish().await;
}

/// The cut affects one of two paths to the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_is_replaced_and_its_streams_come_back() {
    let mut spec = ServerSpec::new("server");
    spec.patience = Some(SHORT);
    let cluster = Cluster::builder().server(spec).start().await;
    let wires = [Wire::to(cluster.server.agents).await, Wire::to(cluster.server.agents).await];
    let mut spec = AgentSpec::new("agent", Link::Quic, NODE);
    spec.patience = Some(SHORT);
    let agent = Agent::start(&cluster.pki, &wires.each_ref().map(|wire| wire.addr), &spec);
    cluster.server.wait_for_tunnels(1).await;
    // Both ways have to be known for the same server's: a way that is cut before it led
    // anywhere may be that of another one.
    agent.wait_for_servers(1, 1).await;
    let echo = Target::echo(NODE).await;
    let mut old = cluster.server.connect(Frontend::ConnectMtls, &echo).await;
    ping(&mut old).await;

    // The path of the tunnel is not known, so each is cut in turn, until the echo
    // stops.
    for wire in &wires {
        wire.cut(true);
        agent.wait_for_servers(1, 1).await;
        wait_for("a dial", async || {
            let dialled = cluster.server.dial(Frontend::ConnectUnix, &echo.to_string()).await;
            dialled.map(drop).map_err(|error| error.to_string())
        })
        .await;
        // The old connection waits; the dialled one is over in a moment.
        wait_for("one connection", async || {
            let metrics = cluster.server.metrics().await;
            match metrics.sum("tunnel_server_connections", &["frontend=\"connect\""]) {
                1 => Ok(()),
                _ => Err(metrics.show("tunnel_server_connections")),
            }
        })
        .await;
        wire.cut(false);
        ping(&mut old).await;
    }
    drop(old);
    cluster.server.wait_for_tunnels(1).await;
    agent.wait_until_idle().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tunnel_without_streams_is_over() {
    let wired = Wired::new(SHORT).await;
    wired.wire.cut(true);
    wired.cluster.server.wait_for_tunnels(0).await;
    wired.agent.wait_for_servers(0, 1).await;
    wired.wire.cut(false);
    wired.agent.wait_for_servers(1, 1).await;
    wired.cluster.server.wait_for_tunnels(1).await;
    wired.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_silent_tunnel_end_at_the_limit() {
    let wired = Wired::new(Patience { limit: Duration::from_secs(4), ..SHORT }).await;
    let echo = Target::echo(NODE).await;
    let mut connections = wired.connections(&echo).await;
    for connection in &mut connections {
        ping(connection).await;
    }
    let began = tokio::time::Instant::now();
    wired.wire.cut(true);
    // Suspicion lasts for two seconds and a half, in which a busy machine may not look.
    wired.cluster.server.wait_for_tunnels(0).await;
    assert!(began.elapsed() > SHORT.suspect * 3 / 2, "{:?}", began.elapsed());
    wired.agent.wait_for_servers(0, 1).await;
    wired.wait_for_suspects(0).await;
    for connection in &mut connections {
        // On CONNECT over Unix a reset cannot be told from an end.
        let _ = within("the end of a connection", payload::read_all(connection)).await;
    }
    drop(connections);
    wired.finish().await;
}

/// The streams are idle, so the agent's next heartbeat has to come before the server
/// acts on the closed port, which looks as if the agent's process were gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_outlive_a_nat_that_forgets_and_another_address() {
    let wired = Wired::new(Patience::default()).await;
    let echo = Target::echo(NODE).await;
    let mut connections = wired.connections(&echo).await;
    for connection in &mut connections {
        ping(connection).await;
    }
    for from in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 77)] {
        wired.wire.forget(from);
        // By then each side has checked on the other.
        tokio::time::sleep(Duration::from_secs(4)).await;
        for connection in &mut connections {
            ping(connection).await;
        }
        // The server sends before it knows the agent's new address.
        wired.wire.forget(from);
        for connection in &mut connections {
            ping(connection).await;
        }
    }
    assert_eq!(wired.tunnels_closed().await, 0);
    drop(connections);
    wired.finish().await;
}

/// The limit of silence is for agents that may come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_agent_is_no_cut() {
    let wired = Wired::new(SHORT).await;
    let echo = Target::echo(NODE).await;
    let mut connections = wired.connections(&echo).await;
    for connection in &mut connections {
        ping(connection).await;
    }
    let began = tokio::time::Instant::now();
    wired.wire.cut(true);
    wired.agent.kill().await;
    // The agent's port is closed: its CONNECTION_CLOSE was lost, and its kernel answers
    // with ICMP.
    wired.wire.forget(Ipv4Addr::LOCALHOST);
    for connection in &mut connections {
        let _ = within("the end of a connection", payload::read_all(connection)).await;
    }
    assert!(began.elapsed() < SHORT.limit / 4, "{:?}", began.elapsed());
    wired.cluster.server.wait_for_tunnels(0).await;
    drop(connections);
    wired.cluster.server.wait_until_idle().await;
    panics::assert_none();
}

/// The same bytes up and down again, which arrive whole.
async fn transfer(wired: &Wired, echo: &Target) {
    let connection = wired.cluster.server.connect(Frontend::ConnectUnix, echo).await;
    let (mut read, mut write) = tokio::io::split(connection);
    let sent = payload::bytes(TRANSFER.seed, TRANSFER.len);
    let up = async {
        payload::write(&mut write, &sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), all) = within("a transfer", async { tokio::join!(up, payload::read_all(&mut read)) }).await;
    payload::assert_is(&all.unwrap(), TRANSFER.seed, TRANSFER.len);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_are_as_large_as_the_path_carries_even_if_it_carries_less_later() {
    const ETHERNET: usize = 1472;
    let wired = Wired::new(Patience::default()).await;
    let echo = Target::echo(NODE).await;
    let mut connections = wired.connections(&echo).await;
    for connection in &mut connections {
        ping(connection).await;
    }
    wait_for("large datagrams", async || {
        transfer(&wired, &echo).await;
        let longest = wired.wire.longest();
        if longest > 6000 { Ok(()) } else { Err(format!("{longest} bytes at most")) }
    })
    .await;

    wired.wire.narrow(&[Way::Up, Way::Down], ETHERNET);
    transfer(&wired, &echo).await;
    for connection in &mut connections {
        ping(connection).await;
    }
    wait_for("datagrams that fit", async || {
        wired.wire.longest();
        transfer(&wired, &echo).await;
        let longest = wired.wire.longest();
        if longest <= ETHERNET { Ok(()) } else { Err(format!("{longest} bytes at most")) }
    })
    .await;
    assert_eq!(wired.tunnels_closed().await, 0);
    drop(connections);
    wired.finish().await;
}
