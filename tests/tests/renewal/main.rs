//! Files that are renewed while servers and agents run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod ends;
mod load;
mod tokens;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tunnel::transport::Link;
use tunnel_tests::{Agent, AgentSpec, Authority, Issued, Pki, Server, ServerSpec, node, wait_for};

/// Time between two looks: ten times as short as usual, or more.
const PERIOD: Duration = Duration::from_millis(500);

const HOUR: Duration = Duration::from_secs(3600);

/// Files of a server and of agents, of one authority.
struct World {
    dir: TempDir,
    pki: Pki,
    ca: Authority,
    period: Duration,
}

impl World {
    fn new() -> Self {
        tunnel_tests::panics::record();
        let dir = TempDir::new().unwrap();
        let (pki, ca) = (Pki::make(dir.path()), Authority::new("first"));
        let world = Self { dir, pki, ca, period: PERIOD };
        world.put("agents-ca.crt", world.ca.pem());
        world.put("servers-ca.crt", world.ca.pem());
        world.issue("cluster", &world.ca.server());
        world.issue("agent", &world.ca.client("agent", HOUR));
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Replaces a file by rename.
    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Replaces `NAME.crt` and `NAME.key`.
    fn issue(&self, name: &str, issued: &Issued) {
        self.put(&format!("{name}.key"), &issued.key);
        self.put(&format!("{name}.crt"), &issued.cert);
    }

    fn server(&self, flags: &[(&str, &str)]) -> Server {
        self.server_on(0, flags)
    }

    fn server_on(&self, port: u16, flags: &[(&str, &str)]) -> Server {
        let mut spec = ServerSpec::new("server")
            .flag("cluster-cert", &self.shown("cluster.crt"))
            .flag("cluster-key", &self.shown("cluster.key"))
            .flag("cluster-ca-cert", &self.shown("agents-ca.crt"));
        (spec.renewal, spec.agent_port) = (Some(self.period), port);
        let spec = flags.iter().fold(spec, |spec, (name, value)| spec.flag(name, value));
        Server::start(self.dir.path(), &self.pki, &spec).unwrap()
    }

    fn agent(&self, server: &Server, link: Link, flags: &[(&str, &str)]) -> Agent {
        let mut spec = AgentSpec::new(&format!("agent-{}", link.label()), link, node(link))
            .flag("ca-cert", &self.shown("servers-ca.crt"))
            .flag("agent-cert", &self.shown("agent.crt"))
            .flag("agent-key", &self.shown("agent.key"));
        spec.renewal = Some(self.period);
        let spec = flags.iter().fold(spec, |spec, (name, value)| spec.flag(name, value));
        Agent::start(&self.pki, &[server.agents], &spec)
    }
}

/// Waits until so many tunnels have ended with their credential, for this reason.
async fn lapsed(server: &Server, reason: &str, wanted: i64) {
    let label = format!("reason=\"{reason}\"");
    wait_for(&format!("{wanted} tunnels that are {reason}"), async || {
        let metrics = server.metrics().await;
        match metrics.sum("tunnel_server_lapsed_tunnels_total", &[&label]) {
            seen if seen == wanted => Ok(()),
            _ => Err(metrics.show("tunnel_server_")),
        }
    })
    .await;
}
