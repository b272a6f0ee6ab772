//! `tunnel-server demo`: the whole system on one laptop, without a cluster.
//!
//! A throw-away certificate authority, a server, an agent on each link and a
//! small target run in this process, on loopback. A transfer is pushed through
//! every frontend and link, with every byte checked.

mod pki;
mod target;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};
use tunnel::drain::Drain;
use tunnel_client::{Connection, Endpoint, connect, grpc, tls_config};
use tunnel_program::process;

use crate::app::{Addresses, App};
use crate::cli::Cli;
use crate::config::Config;

/// Bytes of one transfer.
const TRANSFER: usize = 8 << 20;

/// Limit of one transfer, generous for slow machines.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// Limit for the agents to connect.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// The two agents: the link, and the loopback address that stands for the node.
const NODES: [(&str, Ipv4Addr); 2] =
    [("quic", Ipv4Addr::new(127, 0, 0, 1)), ("h2", Ipv4Addr::new(127, 0, 0, 2))];

/// Runs the demo; with `once` it ends after the transfers.
///
/// # Errors
/// When something cannot be started, or a transfer fails or differs.
pub async fn run(once: bool) -> anyhow::Result<()> {
    let home = tempfile::tempdir().context("temporary directory")?;
    let dir = home.path();
    pki::write(dir)?;
    let drain = Drain::new();
    let (addresses, socket) = start_server(dir, &drain)?;
    let frontend = addresses.frontend.context("the server has no TCP frontend")?;
    say(&format!("certificates   {}", dir.display()));
    say(&format!("tunnel server  agents on {} (UDP and TCP)", addresses.agents));
    say(&format!("               clients on {} and {frontend} (mutual TLS)", socket.display()));
    for (link, ip) in NODES {
        start_agent(dir, link, ip, addresses.agents, &drain)?;
        say(&format!("tunnel agent   node-{link}, serves {ip}, over {link}"));
    }
    wait_for_agents(&drain, addresses.health).await?;

    let tls = tls_config(&dir.join("ca.crt"), &dir.join("client.crt"), &dir.join("client.key"))?;
    let name = ServerName::try_from("localhost")?;
    let endpoints = [("unix", Endpoint::unix(&socket)), ("mtls", Endpoint::tls(frontend, name, tls))];
    for (link, ip) in NODES {
        let echo = target::echo(ip, &drain).await?;
        for (over, endpoint) in &endpoints {
            for protocol in [Protocol::Connect, Protocol::Grpc] {
                let took = transfer(endpoint, protocol, echo).await?;
                say(&format!(
                    "ok   {:<7} over {over} -> {link:<4} {} MiB there and back in {} ms, every byte checked",
                    protocol.label(),
                    TRANSFER >> 20,
                    took.as_millis()
                ));
            }
        }
    }

    if !once {
        let hello = target::hello(NODES[0].1, &drain).await?;
        let dir = dir.display();
        say(&format!(
            "\ntry   curl --proxytunnel --proxy https://localhost:{} --proxy-cacert {dir}/ca.crt \\\n         \
             --proxy-cert {dir}/client.crt --proxy-key {dir}/client.key http://{hello}/\n\nCtrl-C ends the demo.",
            frontend.port()
        ));
        process::wait_for_signal(&drain).await?;
    }
    drain.finish().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what a demo says is its output")]
fn say(line: &str) {
    println!("{line}");
}

/// Starts a server with the flags that an operator would give.
fn start_server(dir: &Path, drain: &Drain) -> anyhow::Result<(Addresses, std::path::PathBuf)> {
    let socket = dir.join("server.socket");
    let file = |name: &str| dir.join(name).display().to_string();
    let cli = Cli::try_parse_from([
        "tunnel-server".to_owned(),
        format!("--uds-name={}", socket.display()),
        "--server-port=1".to_owned(),
        "--server-bind-address=127.0.0.1".to_owned(),
        format!("--server-cert={}", file("server.crt")),
        format!("--server-key={}", file("server.key")),
        format!("--server-ca-cert={}", file("ca.crt")),
        format!("--cluster-cert={}", file("server.crt")),
        format!("--cluster-key={}", file("server.key")),
        format!("--cluster-ca-cert={}", file("ca.crt")),
        "--agent-bind-address=127.0.0.1".to_owned(),
        "--agent-port=0".to_owned(),
        "--admin-port=0".to_owned(),
        "--health-bind-address=127.0.0.1".to_owned(),
        "--health-port=0".to_owned(),
        "--proxy-strategies=destHost".to_owned(),
        "--server-id=demo".to_owned(),
    ])?;
    let mut config = Config::try_from(cli.server)?;
    if let Some((bind, _)) = &mut config.tcp {
        // On the command line, 0 means "no frontend on TCP"; here, "any port".
        bind.1 = 0;
    }
    let app = App::bind(config)?;
    let addresses = app.addresses()?;
    let until = drain.clone();
    drain.spawn("demo server", async move {
        let stop = async {
            until.killed().await;
            Ok(())
        };
        if let Err(error) = app.run(stop).await {
            tracing::error!(%error, "the server failed");
        }
    });
    Ok((addresses, socket))
}

fn start_agent(
    dir: &Path,
    link: &str,
    ip: Ipv4Addr,
    server: SocketAddr,
    drain: &Drain,
) -> anyhow::Result<()> {
    let file = |name: &str| dir.join(name).display().to_string();
    let cli = tunnel_agent::cli::Cli::try_parse_from([
        "tunnel-agent".to_owned(),
        format!("--ca-cert={}", file("ca.crt")),
        format!("--agent-cert={}", file("agent.crt")),
        format!("--agent-key={}", file("agent.key")),
        format!("--proxy-server-host={}", server.ip()),
        format!("--proxy-server-port={}", server.port()),
        format!("--transport={link}"),
        format!("--agent-id=node-{link}"),
        format!("--agent-identifiers=ipv4={ip}"),
        "--health-server-host=127.0.0.1".to_owned(),
        "--health-server-port=0".to_owned(),
        "--admin-server-port=0".to_owned(),
    ])?;
    let app = tunnel_agent::app::App::bind(tunnel_agent::config::Config::try_from(cli)?)?;
    let until = drain.clone();
    drain.spawn("demo agent", async move {
        let stop = async {
            until.killed().await;
            Ok(())
        };
        if let Err(error) = app.run(stop).await {
            tracing::error!(%error, "an agent failed");
        }
    });
    Ok(())
}

/// Waits until the server's metrics show both agents.
async fn wait_for_agents(drain: &Drain, health: SocketAddr) -> anyhow::Result<()> {
    let both = async {
        loop {
            ensure!(!drain.has_started(), "the demo was stopped");
            let metrics = target::get(health, "/metrics").await.unwrap_or_default();
            let connected =
                |link: &str| metrics.contains(&format!("tunnel_server_tunnels{{link=\"{link}\"}} 1"));
            if NODES.iter().all(|(link, _)| connected(link)) {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(READY_LIMIT, both).await.context("the agents did not connect in time")?
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Connect,
    Grpc,
}

impl Protocol {
    const fn label(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Grpc => "gRPC",
        }
    }
}

/// Sends a pattern to the echo and checks every byte that comes back.
async fn transfer(endpoint: &Endpoint, protocol: Protocol, echo: SocketAddr) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let echo = echo.to_string();
    let connection = match protocol {
        Protocol::Connect => connect::dial(endpoint, &echo).await?,
        Protocol::Grpc => grpc::dial(endpoint, &echo).await?,
    };
    timeout(TRANSFER_LIMIT, there_and_back(connection)).await.context("the transfer took too long")??;
    Ok(started.elapsed())
}

async fn there_and_back(connection: Connection) -> anyhow::Result<()> {
    // A period that divides no buffer size, so that shifted bytes show.
    let pattern: Vec<u8> = (0..TRANSFER).map(|i| (i % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let send = async {
        writer.write_all(&pattern).await?;
        writer.flush().await
    };
    let receive = async {
        let mut back = vec![0; TRANSFER];
        reader.read_exact(&mut back).await?;
        std::io::Result::Ok(back)
    };
    let ((), back) = tokio::try_join!(send, receive)?;
    ensure!(back == pattern, "bytes changed on the way");
    reader.unsplit(writer).close().await?;
    Ok(())
}
