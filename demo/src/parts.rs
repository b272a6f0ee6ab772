//! The server and the agents, started with the flags that an operator would give.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use measuring_kit::Certificates;
use tokio::time::{sleep, timeout};
use tracing::error;
use tunnel::drain::Drain;
use tunnel_server::app::Addresses;

use crate::{NODES, Node, target};

/// Limit for the agents to connect.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// Starts a server with a frontend on `socket` and one on TCP.
pub(super) fn start_server(
    certificates: &Certificates,
    socket: &Path,
    drain: &Drain,
) -> anyhow::Result<Addresses> {
    let (ca, pair) = (&certificates.ca, &certificates.server);
    let cli = tunnel_server::cli::Cli::try_parse_from([
        "tunnel-server",
        &format!("--uds-name={}", socket.display()),
        "--server-port=1",
        "--server-bind-address=127.0.0.1",
        &format!("--server-cert={}", pair.certificate.display()),
        &format!("--server-key={}", pair.key.display()),
        &format!("--server-ca-cert={}", ca.display()),
        &format!("--cluster-cert={}", pair.certificate.display()),
        &format!("--cluster-key={}", pair.key.display()),
        &format!("--cluster-ca-cert={}", ca.display()),
        "--agent-bind-address=127.0.0.1",
        "--agent-port=0",
        "--admin-port=0",
        "--health-bind-address=127.0.0.1",
        "--health-port=0",
        "--proxy-strategies=destHost",
        "--server-id=demo",
    ])?;
    let mut config = tunnel_server::config::Config::try_from(cli)?;
    if let Some((bind, _)) = &mut config.tcp {
        // The flag's 0 means "no frontend on TCP"; the port's 0 lets the kernel choose.
        bind.port = 0;
    }
    let app = tunnel_server::app::App::bind(config)?;
    let addresses = app.addresses()?;
    let until = drain.clone();
    drain.spawn("demo server", async move {
        // Boxed, because the future is large.
        if let Err(error) = Box::pin(app.run(killed(&until))).await {
            error!(%error, "the server failed");
        }
    });
    Ok(addresses)
}

/// Starts the agent of a node.
pub(super) fn start_agent(
    certificates: &Certificates,
    Node { link, ip }: Node,
    server: SocketAddr,
    drain: &Drain,
) -> anyhow::Result<()> {
    let pair = &certificates.agent;
    let cli = tunnel_agent::cli::Cli::try_parse_from([
        "tunnel-agent",
        &format!("--ca-cert={}", certificates.ca.display()),
        &format!("--agent-cert={}", pair.certificate.display()),
        &format!("--agent-key={}", pair.key.display()),
        &format!("--proxy-server-host={}", server.ip()),
        &format!("--proxy-server-port={}", server.port()),
        &format!("--transport={link}"),
        &format!("--agent-id=node-{link}"),
        &format!("--agent-identifiers=ipv4={ip}"),
        "--health-server-host=127.0.0.1",
        "--health-server-port=0",
        "--admin-server-port=0",
    ])?;
    let app = tunnel_agent::app::App::bind(tunnel_agent::config::Config::try_from(cli)?)?;
    let until = drain.clone();
    drain.spawn("demo agent", async move {
        if let Err(error) = app.run(killed(&until)).await {
            error!(%error, "an agent failed");
        }
    });
    Ok(())
}

/// Ready when the demo ends.
async fn killed(drain: &Drain) -> io::Result<()> {
    drain.killed().await;
    Ok(())
}

/// Waits until the server's metrics show both agents.
pub(super) async fn wait_for_agents(drain: &Drain, health: SocketAddr) -> anyhow::Result<()> {
    let both = async {
        loop {
            ensure!(!drain.has_started(), "the demo was stopped");
            let metrics = target::get(health, "/metrics").await.unwrap_or_default();
            let connected =
                |link: &str| metrics.contains(&format!("tunnel_server_tunnels{{link=\"{link}\"}} 1"));
            if NODES.iter().all(|node| connected(node.link)) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(READY_LIMIT, both).await.context("the agents did not connect in time")?
}
