//! Server, agents and target of a siege: processes, as they are run elsewhere.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use measuring_kit::{Certificates, Child, Link, Programs, get};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tunnel_client::{Connection, dial};

use super::api::Api;
use super::ground::Ground;
use super::log::Log;
use crate::bystander::Echoed;
use crate::dialing::{self, with_echo, within};
use crate::fleet::room::sum_of;
use crate::frontend::{Frontend, FrontendArgs, FrontendName, LOCALHOST};
use crate::ours::{AgentAt, HOST, Ports, agent_flags, free_ports, server_flags, start};
use crate::process::Process;
use crate::target::process::TargetProcess;

/// Time between two looks at the server.
const LOOK: Duration = Duration::from_millis(50);

/// Bytes of a piece of a canary: few, so that two cores carry a thousand in a second.
const PIECE: usize = 512;

/// Files that the server may open. It gives strangers of each kind a sixteenth, 512 places, which a flood fills in
/// seconds; floods that need most take half of them.
const FILES: u64 = 8192;

/// Longest wait for agents.
const READY: Duration = Duration::from_secs(30);

const FRONTENDS: [FrontendName; 4] =
    [FrontendName::ConnectUds, FrontendName::GrpcUds, FrontendName::ConnectTcp, FrontendName::GrpcTcp];

/// The processes; killed when dropped.
#[derive(Debug)]
pub(crate) struct Besieged {
    pub(crate) ground: Ground,
    pub(crate) log: Log,
    /// Reviews the agents' tokens.
    pub(crate) api: Api,
    /// Each frontend and each link's target.
    pub(crate) ways: Vec<Way>,
    server: Child,
    _agents: Vec<Child>,
    _target: TargetProcess,
    // Dropped last: the socket and the certificates are in it.
    dir: TempDir,
    logs: Option<PathBuf>,
}

/// A way for a client's dials.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    frontend: Frontend,
    /// As the agent of one link serves it.
    target: String,
}

impl Way {
    pub(crate) async fn dial(self) -> anyhow::Result<Connection> {
        let Self { frontend, target } = self;
        let dialled = dial(frontend.protocol, &frontend.endpoint, &target, &frontend.options);
        with_echo(within("dial", dialled).await??).await
    }
}

/// Memory in bytes, and open files of the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) memory: u64,
    /// The part of the memory that is not of files, such as the program's own.
    pub(crate) written: u64,
    pub(crate) files: usize,
}

impl Look {
    fn or_more(self, other: Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            written: self.written.max(other.written),
            files: self.files.max(other.files),
        }
    }
}

impl Besieged {
    /// Starts all of them, and waits until the server has both agents.
    pub(crate) async fn start(programs: &Programs, logs: Option<PathBuf>) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let target = TargetProcess::start().await?;
        let certificates = Certificates::write(dir.path(), HOST)?;
        let ports = Ports::free()?;
        let uds = dir.path().join("frontend.socket");
        let api = Api::start(dir.path()).await?;
        let log_dir = logs.as_deref().unwrap_or(dir.path());
        let (log, pipe) = Log::start(&log_dir.join("server.log"))?;
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={FILES}:{FILES}")).arg(&programs.server_bin);
        command.args(server_flags(&certificates, &ports, &uds));
        // No agent without the right name gets a bystander's dial.
        command.arg("--proxy-strategies=destHost").args(api.server_flags());
        command.args(&programs.server_arg);
        command.stdin(Stdio::null()).stderr(pipe);
        let mut server = Child::start("server", command, None)?;
        server.wait_for_port(ports.server_health).await?;
        let mut agents = Vec::new();
        for link in [Link::Quic, Link::H2] {
            agents.push(start_agent(programs, &certificates, &api, link, ports.link, log_dir).await?);
        }
        let at = |port| (Ipv4Addr::LOCALHOST, port).into();
        let (ca, pair) = (certificates.ca.clone(), |pair: &measuring_kit::Pair| {
            (pair.certificate.clone(), pair.key.clone())
        });
        let ground = Ground {
            uds,
            frontend: at(ports.frontend),
            agents: at(ports.link),
            health: at(ports.server_health),
            admin: at(ports.server_admin),
            target: target.addresses.commands,
            banner: target.addresses.banner,
            ca,
            agent: pair(&certificates.agent),
            client: pair(&certificates.client),
            token: api.token.clone(),
            seconds: 0.0,
        };
        let ways = ways(&ground)?;
        let _target = target;
        let besieged = Self { ground, log, api, ways, server, _agents: agents, _target, dir, logs };
        besieged.has_tunnels(2).await?;
        Ok(besieged)
    }

    /// Opens streams, as many on each way.
    pub(crate) async fn streams(&self, count: u32) -> anyhow::Result<Vec<Echoed>> {
        let (mut streams, ways) = (Vec::new(), self.ways.len());
        for (number, way) in self.ways.iter().enumerate() {
            let share = count as usize / ways + usize::from(number < count as usize % ways);
            for connection in dialing::open(share, || way.clone().dial()).await? {
                streams.push(Echoed::new(connection, streams.len() as u64, PIECE));
            }
        }
        Ok(streams)
    }

    /// Opens streams through the Unix socket, half of them on each link, and drops them at once.
    pub(crate) async fn burst(&self, count: usize) -> anyhow::Result<()> {
        let [quic, h2, ..] = &self.ways[..] else { anyhow::bail!("no ways") };
        let (quic, h2) = tokio::join!(
            dialing::open(count / 2, || quic.clone().dial()),
            dialing::open(count / 2, || h2.clone().dial())
        );
        drop((quic?, h2?));
        Ok(())
    }

    /// Directory for logs.
    pub(crate) fn log_dir(&self) -> &Path {
        self.logs.as_deref().unwrap_or(self.dir.path())
    }

    pub(crate) fn look(&self) -> anyhow::Result<Look> {
        let process = Process { name: "server".into(), pid: self.server.id() };
        let (memory, written) = (process.resident()?, process.anonymous()?);
        Ok(Look { memory, written, files: process.open_files()? })
    }

    /// The most memory and files while `event` goes on.
    pub(crate) async fn watch<T>(&self, event: impl Future<Output = T>) -> anyhow::Result<(T, Look)> {
        let (mut event, mut most) = (std::pin::pin!(event), self.look()?);
        loop {
            tokio::select! {
                result = &mut event => return Ok((result, most.or_more(self.look()?))),
                () = sleep(LOOK) => most = most.or_more(self.look()?),
            }
        }
    }

    async fn has_tunnels(&self, count: u32) -> anyhow::Result<()> {
        let end = Instant::now() + READY;
        loop {
            let now = self.metric("tunnel_server_tunnels").await.unwrap_or_default();
            if now == f64::from(count) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{now} tunnels\n{}", self.log.last_lines());
            sleep(LOOK).await;
        }
    }

    /// The sum of all series of one of the server's metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let asked = get(self.ground.health.port(), "/metrics");
        Ok(sum_of(&within("metrics", asked).await??, name))
    }

    /// Signs of a bug in the server.
    pub(crate) async fn bug(&self) -> anyhow::Result<Option<String>> {
        let panics = self.metric("tunnel_panics_total").await?;
        let words = || format!("{panics} tasks of the server panicked\n{}", self.log.last_lines());
        Ok((panics > 0.0).then(words))
    }
}

/// An agent that serves the one target under a name of its own, so that a dial's target decides the link.
async fn start_agent(
    programs: &Programs,
    certificates: &Certificates,
    api: &Api,
    link: Link,
    server: u16,
    logs: &Path,
) -> anyhow::Result<Child> {
    let [health, admin] = free_ports()?;
    let servers = format!("{HOST}:{server}");
    let at = AgentAt { servers: &servers, link, id: link.name(), health, admin };
    let mut flags = agent_flags(certificates, &at);
    flags.push(format!("--agent-identifiers=host={}", host(link)));
    flags.push(api.agent_flag());
    flags.extend(programs.agent_arg.iter().cloned());
    let log = logs.join(format!("agent-{}.log", link.name()));
    let mut agent = start("agent", &programs.agent_bin, &flags, &log)?;
    agent.wait_until_ready(health).await?;
    Ok(agent)
}

/// The target's host, as the agent of a link serves it.
const fn host(link: Link) -> &'static str {
    match link {
        Link::Quic => LOCALHOST,
        Link::H2 => HOST,
    }
}

fn ways(ground: &Ground) -> anyhow::Result<Vec<Way>> {
    let mut ways = Vec::new();
    for name in FRONTENDS {
        let place = name.at(ground.uds.clone(), ground.frontend);
        let (ca, (cert, key)) = (ground.ca.clone(), ground.client.clone());
        let server_name = LOCALHOST.into();
        let frontend =
            FrontendArgs { place, ca: Some(ca), cert: Some(cert), key: Some(key), server_name }.resolve()?;
        for link in [Link::Quic, Link::H2] {
            let target = format!("{}:{}", host(link), ground.target.port());
            ways.push(Way { frontend: frontend.clone(), target });
        }
    }
    Ok(ways)
}
