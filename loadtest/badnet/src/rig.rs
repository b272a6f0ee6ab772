//! A server and its agents, one on each link, with the bad line between them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::Certificates;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Instant, sleep};
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::cli::{Link, Programs};
use crate::namespaces::{Namespace, Network, SERVER};

/// How long everything may take to get ready.
const START_LIMIT: Duration = Duration::from_secs(40);

/// Port of targets; the namespaces are our own, so all ports are free.
const TARGET_PORT: u16 = 7000;

const AGENT_PORT: u16 = 8091;

/// Lines of a log that go with an error.
const LAST_LINES: usize = 20;

/// A program in a namespace; killed and reaped when dropped.
#[derive(Debug)]
struct Child {
    process: Process,
    /// A target lives as long as this is open, even if we are killed.
    _stdin: Option<std::process::ChildStdin>,
}

impl Child {
    fn start(namespace: &Namespace, program: &Path, flags: &[String], log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut command = namespace.command(program);
        command.args(flags).stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let mut process = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let stdin = process.stdin.take();
        Ok(Self { process, _stdin: stdin })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// All of it. The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Rig {
    _children: Vec<Child>,
    pub(crate) network: Network,
    dir: TempDir,
}

impl Rig {
    /// Starts it, and waits until every link carries a connection.
    pub(crate) async fn start(network: Network, programs: &Programs, links: &[Link]) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let certificates = Certificates::write(dir.path(), SERVER)?;
        let log = |name: &str| dir.path().join(format!("{name}.log"));
        let own = std::env::current_exe()?;
        let target = ["target".to_owned(), format!("--listen=0.0.0.0:{TARGET_PORT}")];
        let server = [server_flags(&certificates, &socket(dir.path())), programs.server_arg.clone()].concat();
        let mut children = vec![
            Child::start(&network.server, &programs.server_bin, &server, &log("server"))?,
            Child::start(&network.agent, &own, &target, &log("target"))?,
        ];
        // Agents that come too early on QUIC wait for ten seconds.
        let end = Instant::now() + START_LIMIT;
        while !socket(dir.path()).exists() && Instant::now() < end {
            sleep(Duration::from_millis(20)).await;
        }
        for (n, link) in (0..).zip(links) {
            let flags = [agent_flags(&certificates, *link, n), programs.agent_arg.clone()].concat();
            let name = format!("agent-{}", link.name());
            children.push(Child::start(&network.agent, &programs.agent_bin, &flags, &log(&name))?);
        }
        let rig = Self { _children: children, network, dir };
        for link in links {
            rig.wait_for(*link).await.with_context(|| rig.last_words())?;
        }
        Ok(rig)
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

    /// A connection to the target behind the agent on this link, which has been
    /// told what to do.
    pub(crate) async fn connect(&self, link: Link, command: &str) -> anyhow::Result<Connection> {
        let target = format!("{}:{TARGET_PORT}", link.target());
        let endpoint = Endpoint::unix(socket(self.dir.path()));
        let mut connection = dial(Protocol::Connect, &endpoint, &target, &Options::default()).await?;
        connection.write_all(format!("{command}\n").as_bytes()).await?;
        Ok(connection)
    }

    /// The ends of the logs.
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

fn socket(dir: &Path) -> PathBuf {
    dir.join("frontend.socket")
}

fn server_flags(certificates: &Certificates, socket: &Path) -> Vec<String> {
    let (ca, server) = (certificates.ca.display(), &certificates.server);
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
    flags.push(format!("--cluster-cert={}", server.certificate.display()));
    flags.push(format!("--cluster-key={}", server.key.display()));
    flags.push(format!("--cluster-ca-cert={ca}"));
    flags
}

fn agent_flags(certificates: &Certificates, link: Link, number: u16) -> Vec<String> {
    vec![
        format!("--ca-cert={}", certificates.ca.display()),
        format!("--agent-cert={}", certificates.agent.certificate.display()),
        format!("--agent-key={}", certificates.agent.key.display()),
        format!("--proxy-server-host={SERVER}"),
        format!("--proxy-server-port={AGENT_PORT}"),
        format!("--transport={}", link.name()),
        format!("--agent-id={}", link.name()),
        format!("--agent-identifiers=ipv4={}", link.target()),
        "--health-server-host=127.0.0.1".into(),
        format!("--health-server-port={}", 9000 + 2 * number),
        "--admin-bind-address=127.0.0.1".into(),
        format!("--admin-server-port={}", 9001 + 2 * number),
    ]
}
