//! Tunnels whose certificate has expired, was revoked, or is of a withdrawn authority.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_tests::{Authority, Frontend, LINKS, Server, Target, node, payload, wait_for, within};

use super::{HOUR, World, lapsed};

/// A connection to an echo.
struct Echo {
    connection: Connection,
    _target: Target,
}

impl Echo {
    async fn new(server: &Server, link: Link) -> Self {
        let target = Target::echo(node(link)).await;
        let connection = server.connect(Frontend::ConnectUnix, target.addr).await;
        Self { connection, _target: target }
    }

    async fn answers(&mut self) {
        within("a byte there", payload::write(&mut self.connection, b"x")).await.unwrap();
        assert_eq!(within("a byte back", self.connection.read_u8()).await.unwrap(), b'x');
    }
}

/// Waits until the server has refused an agent.
async fn refused(server: &Server) {
    wait_for("a refused handshake", async || {
        let metrics = server.metrics().await;
        let seen = metrics.sum("tunnel_server_rejected_agents_total", &[]);
        if seen > 0 { Ok(()) } else { Err(metrics.show("tunnel_server_rejected")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_ends_with_its_certificate() {
    for link in LINKS {
        let world = World::new();
        let server = world.server(&[]);
        world.issue("agent", &world.ca.client("agent", Duration::from_secs(6)));
        let agent = world.agent(&server, link, &[]);
        server.wait_for_tunnels(1).await;
        lapsed(&server, "expired", 1).await;
        server.wait_for_tunnels(0).await;
        refused(&server).await;
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_makes_a_successor_before_the_old_one_ends() {
    for link in LINKS {
        let world = World::new();
        let server = world.server(&[]);
        // A tenth of the whole validity is long enough for a busy machine.
        let (age, lasts) = (Duration::from_secs(160), Duration::from_secs(20));
        world.issue("agent", &world.ca.aged_client("agent", age, lasts));
        let agent = world.agent(&server, link, &[]);
        server.wait_for_tunnels(1).await;
        let mut old = Echo::new(&server, link).await;
        world.issue("agent", &world.ca.client("agent", HOUR));
        // The successor comes in the last tenth of the validity; the old tunnel keeps its stream.
        server.wait_for_tunnels(2).await;
        let mut new = Echo::new(&server, link).await;
        old.answers().await;
        // Whichever end looks first closes the old tunnel.
        server.wait_for_tunnels(1).await;
        new.answers().await;
        drop((old, new));
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_authority_of_agents_ends_their_tunnels_after_the_successor() {
    for link in LINKS {
        let world = World::new();
        let second = Authority::new("second");
        let server = world.server(&[]);
        let agent = world.agent(&server, link, &[]);
        server.wait_for_tunnels(1).await;
        let mut old = Echo::new(&server, link).await;
        world.put("agents-ca.crt", &format!("{}{}", world.ca.pem(), second.pem()));
        world.issue("agent", &second.client("agent", HOUR));
        wait_for("the agent's new certificate", async || {
            let metrics = agent.metrics().await;
            if renewed(&metrics, "agent-cert") { Ok(()) } else { Err(metrics.show("tunnel_agent_file")) }
        })
        .await;
        old.answers().await;
        world.put("agents-ca.crt", second.pem());
        lapsed(&server, "untrusted", 1).await;
        server.wait_for_tunnels(1).await;
        let mut new = Echo::new(&server, link).await;
        new.answers().await;
        let readiness = agent.readiness().await.unwrap();
        assert_eq!(readiness.0, 200, "{}", readiness.1);
        // No successor: the agent has no certificate of the next authority.
        world.put("agents-ca.crt", world.ca.pem());
        lapsed(&server, "untrusted", 2).await;
        server.wait_for_tunnels(0).await;
        drop((old, new));
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

fn renewed(metrics: &tunnel_tests::Metrics, file: &str) -> bool {
    let label = format!("file=\"{file}\"");
    metrics.sum("tunnel_agent_file_renewals_total", &[&label, "result=\"applied\""]) > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_authority_of_servers_ends_tunnels_to_them() {
    for link in LINKS {
        let world = World::new();
        let second = Authority::new("second");
        let server = world.server(&[]);
        let agent = world.agent(&server, link, &[]);
        server.wait_for_tunnels(1).await;
        let old = Echo::new(&server, link).await;
        world.issue("cluster", &second.server());
        world.put("servers-ca.crt", second.pem());
        // The old tunnel's server was of the first authority, the new one's is of the second.
        wait_for("another tunnel", async || {
            let metrics = server.metrics().await;
            let closed = metrics.sum("tunnel_server_tunnels_closed_total", &[]);
            let standing = metrics.sum("tunnel_server_tunnels", &[]);
            if (closed, standing) == (1, 1) { Ok(()) } else { Err(format!("{closed} closed, {standing}")) }
        })
        .await;
        let mut new = Echo::new(&server, link).await;
        new.answers().await;
        world.put("servers-ca.crt", world.ca.pem());
        agent.wait_for_servers(0, 1).await;
        drop((old, new));
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_ends_its_tunnel_and_makes_no_other() {
    for link in LINKS {
        let world = World::new();
        let revoked = world.ca.client("agent", HOUR);
        world.issue("agent", &revoked);
        world.put("list", &Authority::new("somebody else").revoke(&[revoked.serial]));
        let server = world.server(&[("cluster-crl-file", &world.shown("list"))]);
        let agent = world.agent(&server, link, &[]);
        server.wait_for_tunnels(1).await;
        world.put("list", &world.ca.revoke(&[revoked.serial]));
        lapsed(&server, "untrusted", 1).await;
        refused(&server).await;
        server.wait_for_tunnels(0).await;
        world.put("list", &world.ca.revoke(&[revoked.serial + 1000]));
        server.wait_for_tunnels(1).await;
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_refuse_a_server_whose_certificate_is_revoked() {
    for link in LINKS {
        let world = World::new();
        let (server_cert, other) = (world.ca.server(), world.ca.server());
        world.issue("cluster", &server_cert);
        world.put("list", &world.ca.revoke(&[other.serial]));
        let server = world.server(&[]);
        let agent = world.agent(&server, link, &[("crl-file", &world.shown("list"))]);
        server.wait_for_tunnels(1).await;
        world.put("list", &world.ca.revoke(&[server_cert.serial, other.serial]));
        agent.wait_for_servers(0, 1).await;
        world.issue("cluster", &world.ca.server());
        agent.wait_for_servers(1, 1).await;
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}
