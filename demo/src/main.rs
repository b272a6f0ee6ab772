//! `tunnel-demo`: the whole system in one process on loopback, without a cluster.
//!
//! Throw-away certificates, a server, an agent on each link and a small target. A
//! transfer goes through every frontend and link, and every byte is checked.

mod parts;
mod target;
mod transfer;

use std::net::Ipv4Addr;
use std::process::ExitCode;

use anyhow::Context as _;
use measuring_kit::{Certificates, Pair};
use rustls::pki_types::ServerName;
use tikv_jemallocator::Jemalloc;
use tunnel::drain::Drain;
use tunnel_client::{Endpoint, Protocol, tls_config};
use tunnel_program::args::LogArgs;
use tunnel_program::process;
use tunnel_server::app::Addresses;

use crate::transfer::{TRANSFER, label, transfer};

/// The allocator of `tunnel-server` and `tunnel-agent`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// A node: the link of its agent, and the loopback address that stands for it.
#[derive(Debug, Clone, Copy)]
struct Node {
    link: &'static str,
    ip: Ipv4Addr,
}

/// All nodes.
const NODES: [Node; 2] = [
    Node { link: "quic", ip: Ipv4Addr::new(127, 0, 0, 1) },
    Node { link: "h2", ip: Ipv4Addr::new(127, 0, 0, 2) },
];

/// Runs a server, two agents and a target in this process, without a cluster.
#[derive(Debug, clap::Parser)]
#[command(name = "tunnel-demo", version)]
struct Cli {
    /// End after the transfers instead of staying up.
    #[arg(long)]
    once: bool,

    /// Logging.
    #[command(flatten)]
    log: LogArgs,
}

fn main() -> ExitCode {
    process::main("tunnel-demo", |cli: Cli| {
        // Standard output tells the story; the log of server and agents is for errors.
        let _flush = process::init_logging(&cli.log, "warn")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(run(cli.once))
    })
}

async fn run(once: bool) -> anyhow::Result<()> {
    let home = tempfile::tempdir().context("temporary directory")?;
    let dir = home.path();
    let certificates = Certificates::write(dir, "127.0.0.1")?;
    let drain = Drain::new();
    let socket = dir.join("server.socket");
    let addresses = parts::start_server(&certificates, &socket, &drain)?;
    let Addresses { frontend, agents, health, .. } = addresses;
    let frontend = frontend.context("the server has no TCP frontend")?;
    say(&format!("certificates   {}", dir.display()));
    say(&format!("tunnel server  agents on {agents} (UDP and TCP)"));
    say(&format!("               clients on {} and {frontend} (mutual TLS)", socket.display()));
    for node in NODES {
        let Node { link, ip } = node;
        parts::start_agent(&certificates, node, agents, &drain)?;
        say(&format!("tunnel agent   node-{link}, serves {ip}, over {link}"));
    }
    parts::wait_for_agents(&drain, health).await?;

    let Pair { certificate, key } = &certificates.client;
    let tls = tls_config(&certificates.ca, certificate, key)?;
    let name = ServerName::try_from("localhost")?;
    let endpoints = [("unix", Endpoint::unix(&socket)), ("mtls", Endpoint::tls(frontend, name, tls))];
    for Node { link, ip } in NODES {
        let echo = target::echo(ip, &drain).await?;
        for (over, endpoint) in &endpoints {
            for protocol in [Protocol::Connect, Protocol::Grpc] {
                let took = transfer(endpoint, protocol, echo).await?;
                say(&format!(
                    "ok   {:<7} over {over} -> {link:<4} {} MiB there and back in {} ms, every byte checked",
                    label(protocol),
                    TRANSFER >> 20,
                    took.as_millis()
                ));
            }
        }
    }

    if !once {
        let hello = target::hello(NODES[0].ip, &drain).await?;
        say(&format!(
            "\ntry   curl --proxytunnel --proxy https://localhost:{} --proxy-cacert {} \\\n         \
             --proxy-cert {} --proxy-key {} http://{hello}/\n\nCtrl-C ends the demo.",
            frontend.port(),
            certificates.ca.display(),
            certificate.display(),
            key.display(),
        ));
        process::wait_for_signal(&drain).await?;
    }
    drain.finish().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the demo's output")]
fn say(line: &str) {
    println!("{line}");
}
