//! Agents of this process on a server in this process.

use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use measuring_kit::{Certificates, Link};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunnel::drain::Drain;
use tunnel_server::app::App;

use crate::dialing::dead;
use crate::fleet::args::AgentsArgs;
use crate::fleet::crew::Crew;
use crate::fleet::events::{Order, Standing};
use crate::fleet::streams;
use crate::ours::{HOST, Ports, server_flags};

const COUNT: usize = 30;

struct Server {
    /// Where it takes agents.
    port: u16,
    drain: Drain,
    running: JoinSet<()>,
}

impl Server {
    /// Port 0 is any. The port of a server that has just ended may be taken for a moment.
    async fn start(certificates: &Certificates, link: u16, uds: &Path) -> Self {
        let ports = Ports { link, ..Ports::default() };
        let flags = server_flags(certificates, &ports, uds);
        let flags: Vec<String> = std::iter::once("server".to_owned()).chain(flags).collect();
        let end = Instant::now() + Duration::from_secs(30);
        let app = loop {
            let args = tunnel_server::cli::Cli::try_parse_from(&flags).unwrap();
            match App::bind(args.try_into().unwrap()) {
                Ok(app) => break app,
                Err(error) => assert!(Instant::now() < end, "{error:#}"),
            }
            sleep(Duration::from_millis(10)).await;
        };
        let port = app.addresses().unwrap().agents.port();
        let (drain, mut running) = (app.drain().clone(), JoinSet::new());
        let stopped = drain.clone();
        running.spawn(async move {
            let stop = async move {
                stopped.started().await;
                Ok(())
            };
            Box::pin(app.run(stop)).await.unwrap();
        });
        Self { port, drain, running }
    }

    async fn stop(mut self) {
        self.drain.kill();
        self.running.join_next().await.unwrap().unwrap();
    }
}

/// The flags of agents as a command line.
#[derive(clap::Parser)]
struct AgentsLine {
    #[command(flatten)]
    args: AgentsArgs,
}

fn agents(certificates: &Certificates, port: u16, link: Link) -> AgentsArgs {
    let line = [
        "loadtest".to_owned(),
        format!("--server=127.0.0.1:{port}"),
        format!("--ca={}", certificates.ca.display()),
        format!("--cert={}", certificates.agent.certificate.display()),
        format!("--key={}", certificates.agent.key.display()),
        format!("--count={COUNT}"),
        format!("--link={}", link.name()),
        "--rate=1000".to_owned(),
    ];
    AgentsLine::try_parse_from(line).unwrap().args
}

async fn becomes(crew: &Crew, what: &str, is_so: impl Fn(Standing) -> bool) -> Standing {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so(crew.standing()) {
        assert!(Instant::now() < end, "never {what}: {}", crew.standing());
        sleep(Duration::from_millis(10)).await;
    }
    crew.standing()
}

#[tokio::test]
async fn agents_join_answer_leave_and_find_a_server_that_was_restarted() {
    for link in [Link::Quic, Link::H2] {
        let dir = TempDir::new().unwrap();
        let certificates = Certificates::write(dir.path(), HOST).unwrap();
        let uds = dir.path().join("frontend.socket");
        let server = Server::start(&certificates, 0, &uds).await;
        let port = server.port;
        let crew = Crew::start(&agents(&certificates, port, link)).unwrap();
        becomes(&crew, "all there", |now| now.connected == COUNT).await;

        let mut held = streams::open_connect(&uds, 20).await.unwrap();
        held.extend(streams::open_grpc(&uds, 20).await.unwrap());
        assert_eq!(dead(held).await.unwrap(), 0, "{link:?}");

        crew.flap(50.0);
        let before = becomes(&crew, "flapping", |now| now.left >= 5).await;
        crew.flap(0.0);
        let back = becomes(&crew, "back", |now| now.connected == COUNT && now.tunnels > before.tunnels).await;
        assert!(back.tunnels > COUNT as u64, "{link:?} {back}");

        server.stop().await;
        let before = becomes(&crew, "without a server", |now| now.connected == 0).await;
        let server = Server::start(&certificates, port, &uds).await;
        becomes(&crew, "back at the new server", |now| {
            now.connected == COUNT && now.tunnels >= before.tunnels + COUNT as u64
        })
        .await;
        assert_eq!(dead(streams::open_grpc(&uds, 5).await.unwrap()).await.unwrap(), 0);
        drop(crew);
        server.stop().await;
    }
}

#[test]
fn numbers_and_orders_survive_their_line() {
    let standing = Standing { connected: 3, tunnels: 7, failed: 1, left: 2 };
    let line = serde_json::to_string(&standing).unwrap();
    assert_eq!(serde_json::from_str::<Standing>(&line).unwrap(), standing);
    assert_eq!(Standing::sum([standing, standing]).tunnels, 14);
    let line = serde_json::to_string(&Order::Flap(2.5)).unwrap();
    assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), Order::Flap(2.5));
}
