//! The admin sockets of both programs, and the commands that use them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

mod doctor;
mod leases;
mod log_level;
mod nodes;
mod probe;
mod socket;
mod status;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Parser as _;
use tempfile::TempDir;
use tunnel::transport::Link;
use tunnel_kube_fake::{FakeApi, Served};
use tunnel_operate::client::Client;
use tunnel_operate::report::{AgentStatus, Health, ServerStatus, Status};
use tunnel_server::cli::Command;
use tunnel_tests::{Agent, AgentSpec, Pki, Server, ServerSpec, wait_for};

/// Certificates, a Kubernetes API, and a folder for sockets.
struct World {
    api: FakeApi,
    served: Served,
    pki: Pki,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        tunnel_tests::panics::record();
        let dir = TempDir::new().unwrap();
        let (api, pki) = (FakeApi::new(), Pki::make(dir.path()));
        let served = api.serve().await.unwrap();
        let world = Self { api, served, pki, dir };
        std::fs::write(world.path("kubeconfig"), world.served.kubeconfig()).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A server with an admin socket of its own name.
    fn spec(&self, id: &str) -> ServerSpec {
        ServerSpec::new(id).flag("admin-socket", &self.shown(&format!("{id}.admin")))
    }

    fn start(&self, spec: &ServerSpec) -> Server {
        Server::start(self.dir.path(), &self.pki, spec).unwrap()
    }

    /// An agent with an admin socket of its own name.
    fn agent(&self, id: &str, link: Link, at: Ipv4Addr, servers: &[&Server]) -> Agent {
        let servers: Vec<_> = servers.iter().map(|server| server.agents).collect();
        let spec = AgentSpec::new(id, link, at).flag("admin-socket", &self.shown(&format!("{id}.admin")));
        Agent::start(&self.pki, &servers, &spec)
    }

    fn client(&self, id: &str) -> Client {
        Client::new(&self.path(&format!("{id}.admin")))
    }

    async fn server_status(&self, id: &str) -> ServerStatus {
        match self.client(id).status().await.unwrap() {
            Status::Server(status) => status,
            Status::Agent(status) => panic!("{status:?}"),
        }
    }

    async fn agent_status(&self, id: &str) -> AgentStatus {
        match self.client(id).status().await.unwrap() {
            Status::Agent(status) => status,
            Status::Server(status) => panic!("{status:?}"),
        }
    }

    /// Waits until a server's status is as wanted, and returns it.
    async fn until(&self, id: &str, what: &str, wanted: impl Fn(&ServerStatus) -> bool) -> ServerStatus {
        wait_for(what, async || {
            let status = self.server_status(id).await;
            if wanted(&status) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Runs a command of `tunnel-server`.
    async fn server_command(&self, line: &[&str]) -> Health {
        let cli = tunnel_server::cli::Cli::try_parse_from([&["tunnel-server"], line].concat()).unwrap();
        match cli.command.unwrap() {
            Command::Operate(command) => Box::pin(command.execute()).await,
            other @ (Command::Install(_) | Command::Uninstall(_)) => panic!("{other:?} asks no server"),
        }
    }

    /// Runs a command of `tunnel-agent`.
    async fn agent_command(&self, line: &[&str]) -> Health {
        let cli = tunnel_agent::cli::Cli::try_parse_from([&["tunnel-agent"], line].concat()).unwrap();
        cli.command.unwrap().execute().await
    }
}
