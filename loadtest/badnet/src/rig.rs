//! A server and its agents, one on each link, with the bad line between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::{Certificates, Child, Link, Programs};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::namespaces::{Namespace, Network, SERVER};

/// Longest start. An agent that misses the server on QUIC waits for ten seconds before it dials again.
const START_LIMIT: Duration = Duration::from_secs(40);

/// The target's port; the namespaces are our own, so every port is free.
pub(crate) const TARGET_PORT: u16 = 7000;

const AGENT_PORT: u16 = 8091;

/// Lines of a log that go with an error.
const LAST_LINES: usize = 20;

/// The programs and the network; the fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Rig {
    _children: Vec<Child>,
    pub(crate) network: Network,
    dir: TempDir,
}

impl Rig {
    /// Starts the programs, and waits until every link carries a connection.
    pub(crate) async fn start(network: Network, programs: &Programs, links: &[Link]) -> anyhow::Result<Self> {
        let rig = Self::launch(network, programs, links).await?;
        for link in links {
            rig.wait_for(*link).await.with_context(|| rig.last_words())?;
        }
        Ok(rig)
    }

    /// Starts the programs, the agents last.
    pub(crate) async fn launch(
        network: Network,
        programs: &Programs,
        links: &[Link],
    ) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let certificates = Certificates::write(dir.path(), SERVER)?;
        let log = |name: &str| dir.path().join(format!("{name}.log"));
        let start = |namespace: &Namespace, program: &Path, name, flags: &[String]| {
            let mut command = namespace.command(program);
            // A target lives as long as its standard input is open, even if this process is killed.
            command.args(flags).stdin(Stdio::piped());
            Child::start(name, command, Some(&log(name)))
        };
        let target = ["target".to_owned(), format!("--listen=0.0.0.0:{TARGET_PORT}")];
        let server = [server_flags(&certificates, &socket(dir.path())), programs.server_arg.clone()].concat();
        let mut children = vec![
            start(&network.server, &programs.server_bin, "server", &server)?,
            start(&network.agent, &std::env::current_exe()?, "target", &target)?,
        ];
        // An agent that dials earlier on QUIC waits for ten seconds.
        let end = Instant::now() + START_LIMIT;
        while !socket(dir.path()).exists() && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        for (n, link) in (0..).zip(links) {
            let member = Member { link: *link, id: link.name(), host: host_of(*link), number: n };
            let flags = [agent_flags(&certificates, &member), programs.agent_arg.clone()].concat();
            children.push(start(&network.agent, &programs.agent_bin, name_of(*link), &flags)?);
        }
        Ok(Self { _children: children, network, dir })
    }

    async fn wait_for(&self, link: Link) -> anyhow::Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.connect(link, "echo").await else { return Ok(()) };
            if Instant::now() >= end {
                return Err(error.context(format!("no connection over {} in {START_LIMIT:?}", link.name())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Connects to the target behind the agent on this link, and sends a command.
    pub(crate) async fn connect(&self, link: Link, command: &str) -> anyhow::Result<Connection> {
        self.connecting(link, command).await
    }

    /// As [`Self::connect`], for a task of its own.
    pub(crate) fn connecting(
        &self,
        link: Link,
        command: &str,
    ) -> impl Future<Output = anyhow::Result<Connection>> + Send + use<> {
        connecting(&socket(self.dir.path()), host_of(link), command)
    }

    /// The lines of the agent's log on this link that contain a text.
    pub(crate) fn said(&self, link: Link, text: &str) -> Vec<String> {
        let log = self.dir.path().join(format!("{}.log", name_of(link)));
        let log = fs::read_to_string(log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// The ends of the logs, without access lines.
    pub(crate) fn last_words(&self) -> String {
        let mut words = String::new();
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|line| !line.contains("access")).collect();
                let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
                words.push_str(&format!("--- {} ---\n{}\n", path.display(), last.join("\n")));
            }
        }
        words
    }
}

/// An agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) link: Link,
    pub(crate) id: &'static str,
    /// The target's address that the server routes to this agent.
    pub(crate) host: &'static str,
    /// Makes the ports of this agent.
    pub(crate) number: u16,
}

/// Connects through the frontend to the target with this address, and sends a command.
pub(crate) fn connecting(
    frontend: &Path,
    host: &str,
    command: &str,
) -> impl Future<Output = anyhow::Result<Connection>> + Send + use<> {
    let (endpoint, target) = (Endpoint::unix(frontend), format!("{host}:{TARGET_PORT}"));
    let command = format!("{command}\n");
    async move {
        let mut connection = dial(Protocol::Connect, &endpoint, &target, &Options::default()).await?;
        connection.write_all(command.as_bytes()).await?;
        Ok(connection)
    }
}

pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("frontend.socket")
}

pub(crate) fn server_flags(certificates: &Certificates, socket: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("--uds-name={}", socket.display()),
        "--proxy-strategies=destHost".into(),
        "--server-id=badnet".into(),
        "--server-port=0".into(),
        format!("--agent-bind-address={SERVER}"),
        format!("--agent-port={AGENT_PORT}"),
        "--admin-bind-address=127.0.0.1".into(),
        "--health-bind-address=127.0.0.1".into(),
    ];
    flags.extend(certificates.server_flags("cluster"));
    flags
}

pub(crate) fn agent_flags(certificates: &Certificates, member: &Member) -> Vec<String> {
    let Member { link, id, host, number } = member;
    let mut flags = vec![
        format!("--proxy-server-host={SERVER}"),
        format!("--proxy-server-port={AGENT_PORT}"),
        format!("--transport={}", link.name()),
        format!("--agent-id={id}"),
        format!("--agent-identifiers=ipv4={host}"),
        "--health-server-host=127.0.0.1".into(),
        format!("--health-server-port={}", 9000 + 2 * number),
        "--admin-bind-address=127.0.0.1".into(),
        format!("--admin-server-port={}", 9001 + 2 * number),
    ];
    flags.extend(certificates.agent_flags());
    flags
}

const fn name_of(link: Link) -> &'static str {
    match link {
        Link::H2 => "agent-h2",
        Link::Quic => "agent-quic",
    }
}

/// The target's address that the server routes to the agent on this link.
const fn host_of(link: Link) -> &'static str {
    match link {
        Link::H2 => "127.0.0.2",
        Link::Quic => "127.0.0.1",
    }
}
