//! A server, four agents, the API that reviews their tokens, and the networks between them. Two of the agents are
//! victims, behind a line of their own; two are bystanders behind another one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::{Certificates, Child, Link, Programs, beside};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::api::{self, Mood};
use super::clock::Clock;
use super::disk::Disk;
use super::event::Kind;
use super::names;
use super::report::Usage;
use crate::emulator::Emulator;
use crate::line::Conditions;
use crate::line_args::LineArgs;
use crate::namespaces::{Namespace, Network, SERVER};
use crate::rig::{Member, TARGET_PORT, agent_flags, connecting, server_flags, socket};

pub(crate) const AGENTS: [Member; 4] = [
    Member { link: Link::Quic, id: "victim-quic", host: "127.0.0.2", number: 0 },
    Member { link: Link::H2, id: "victim-h2", host: "127.0.0.3", number: 1 },
    Member { link: Link::Quic, id: "bystander-quic", host: "127.0.0.4", number: 2 },
    Member { link: Link::H2, id: "bystander-h2", host: "127.0.0.5", number: 3 },
];

/// Comes while the API is ill.
pub(crate) const NEWCOMER: Member = Member { link: Link::Quic, id: "newcomer", host: "127.0.0.6", number: 4 };

/// Both ends of the bystanders' line, from the network for benchmarks (RFC 2544).
const BYSTANDERS: [&str; 2] = ["198.18.1.1", "198.18.1.2"];

/// Files that the server may open beside one for each canary. Its own, dials and agents take fewer than a hundred; the
/// rest is what strangers have to take.
const FILES: u64 = 400;

/// The server's certificates and the agents' are valid for this time before and after now, so that a jump of an hour
/// is out of it.
const VALID: Duration = Duration::from_secs(1800);

/// Longest start of the programs.
const START: Duration = Duration::from_secs(40);

/// Lines of a log that go with an error.
const LAST_LINES: usize = 20;

/// Whether an agent, by its place in [`AGENTS`], is touched by events of agents and networks.
pub(crate) const fn is_victim(agent: usize) -> bool {
    agent < 2
}

pub(crate) fn victims() -> impl Iterator<Item = usize> + Clone {
    (0..AGENTS.len()).filter(|agent| is_victim(*agent))
}

/// The programs; the fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) server: Child,
    /// By their places in [`AGENTS`].
    pub(crate) agents: Vec<Child>,
    pub(crate) api: Child,
    _targets: Vec<Child>,
    pub(crate) ground: Ground,
}

/// The network and the files under the programs.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The server's side and the victims'.
    pub(crate) network: Network,
    bystanders: Namespace,
    _line: Emulator,
    pub(crate) conditions: Conditions,
    /// None if no event fills it.
    pub(crate) disk: Option<Disk>,
    /// None if no clock jumps, or where that cannot be had.
    pub(crate) clock: Option<Clock>,
    programs: Programs,
    certificates: Certificates,
    /// Files that the server may open.
    pub(crate) files: u64,
    dir: TempDir,
}

impl World {
    /// Starts the programs, and waits until every agent carries a connection.
    pub(crate) async fn start(
        network: Network,
        line: &LineArgs,
        programs: &Programs,
        canaries: u16,
        events: &[Kind],
    ) -> anyhow::Result<Self> {
        let ground = Ground::new(network, line, programs, u64::from(canaries) + FILES, events)?;
        let kubeconfig = ground.path("kubeconfig");
        let api = ground.start_api(&kubeconfig)?;
        exists(&kubeconfig).await?;
        let server = ground.start_server(&kubeconfig)?;
        let targets =
            vec![ground.start_target(&ground.network.agent)?, ground.start_target(&ground.bystanders)?];
        // An agent that dials earlier on QUIC waits for ten seconds.
        exists(&socket(ground.dir.path())).await.with_context(|| ground.last_words())?;
        let agents = (0..AGENTS.len()).map(|agent| ground.start_agent(agent)).collect::<Result<_, _>>()?;
        let world = Self { server, agents, api, _targets: targets, ground };
        for member in AGENTS {
            let works = world.works(&member, START).await;
            anyhow::ensure!(works, "no connection to {}\n{}", member.id, world.last_words());
        }
        Ok(world)
    }

    pub(crate) fn frontend(&self) -> PathBuf {
        socket(self.ground.dir.path())
    }

    /// Whether a connection to the target behind this agent can be made within a time.
    pub(crate) async fn works(&self, member: &Member, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            if connecting(&self.frontend(), member.host, "echo").await.is_ok() {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Memory and files of the server.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let process = Path::new("/proc").join(self.server.id().to_string());
        let status = fs::read_to_string(process.join("status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: f64 = resident.trim_end_matches("kB").trim().parse()?;
        Ok(Usage { memory_mb: kibibytes / 1024.0, files: fs::read_dir(process.join("fd"))?.count() })
    }

    /// The ends of the logs, without access lines.
    pub(crate) fn last_words(&self) -> String {
        self.ground.last_words()
    }
}

impl Ground {
    fn new(
        network: Network,
        line: &LineArgs,
        programs: &Programs,
        files: u64,
        events: &[Kind],
    ) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let (bystanders, second) = stand_by(&network, line)?;
        fs::create_dir(dir.path().join("logs"))?;
        let disk = events.contains(&Kind::Disk).then(|| Disk::mount(&dir.path().join("logs"))).transpose()?;
        let clock = if events.contains(&Kind::Clock) { Clock::find(dir.path())? } else { None };
        let certificates = Certificates::write_short(dir.path(), SERVER, VALID)?;
        let conditions = line.conditions(0.0);
        let programs = programs.clone();
        let ground = Self {
            network,
            bystanders,
            _line: second,
            conditions,
            disk,
            clock,
            programs,
            certificates,
            files,
            dir,
        };
        names::write(ground.dir.path())?;
        let moods = Mood::ill().map(Mood::name);
        for id in AGENTS.iter().map(|member| member.id).chain(moods.iter().map(String::as_str)) {
            api::write_token(&ground.path(&format!("{id}.token")), id)?;
        }
        Ok(ground)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path("logs").join(format!("{name}.log"))
    }

    /// Flags for a log file that is appended to.
    fn log_flags(&self, name: &str) -> [String; 2] {
        ["--logtostderr=false".to_owned(), format!("--log-file={}", self.log(name).display())]
    }

    fn start_api(&self, kubeconfig: &Path) -> anyhow::Result<Child> {
        let mut command = self.network.server.command(&std::env::current_exe()?);
        command.arg("api").arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::piped());
        for entry in fs::read_dir(self.dir.path())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "token") {
                command.arg("--token").arg(path);
            }
        }
        Child::start("api", command, None)
    }

    fn start_server(&self, kubeconfig: &Path) -> anyhow::Result<Child> {
        let mut command = self.network.server.command(Path::new("prlimit"));
        command.arg(format!("--nofile={0}:{0}", self.files)).arg(&self.programs.server_bin);
        command.args(server_flags(&self.certificates, &socket(self.dir.path())));
        command.args(api::server_flags(kubeconfig)).args(self.log_flags("server"));
        command.args(&self.programs.server_arg).stdin(Stdio::null());
        if let Some(clock) = &self.clock {
            clock.give(&mut command);
        }
        Child::start("server", command, None)
    }

    fn start_target(&self, namespace: &Namespace) -> anyhow::Result<Child> {
        let mut command = namespace.command(&std::env::current_exe()?);
        let listen = format!("--listen=0.0.0.0:{TARGET_PORT}");
        // A target lives as long as its standard input is open, even if this process is killed.
        command.args(["target", &listen, &format!("--silent={}", names::RESOLVER)]).stdin(Stdio::piped());
        Child::start("target", command, None)
    }

    /// Starts an agent, by its place in [`AGENTS`].
    pub(crate) fn start_agent(&self, agent: usize) -> anyhow::Result<Child> {
        self.start_member(&AGENTS[agent], is_victim(agent), AGENTS[agent].id)
    }

    /// Starts the newcomer, with a token of its own for each mood.
    pub(crate) fn start_newcomer(&self, mood: Mood) -> anyhow::Result<Child> {
        self.start_member(&NEWCOMER, true, &mood.name())
    }

    fn start_member(&self, member: &Member, is_victim: bool, token: &str) -> anyhow::Result<Child> {
        let namespace = if is_victim { &self.network.agent } else { &self.bystanders };
        let mut command = names::command(namespace, self.dir.path(), &self.programs.agent_bin);
        command.args(names::claim(agent_flags(&self.certificates, member), member));
        command.args(self.log_flags(member.id));
        let token = self.path(&format!("{token}.token"));
        command.arg("--service-account-token-path").arg(token);
        command.args(&self.programs.agent_arg).stdin(Stdio::null());
        if let Some(clock) = self.clock.as_ref().filter(|_| is_victim) {
            clock.give(&mut command);
        }
        Child::start(member.id, command, None)
    }

    /// Starts strangers at all places of the server.
    pub(crate) fn start_strangers(&self, count: u64) -> anyhow::Result<Child> {
        let mut command = self.network.server.command(&beside("badnet"));
        let places = [format!("--tcp={SERVER}:8091"), "--tcp=127.0.0.1:8092".to_owned()];
        command.arg("strangers").args(places).arg(format!("--count={count}")).stdin(Stdio::piped());
        command.arg("--uds").arg(socket(self.dir.path()));
        Child::start("strangers", command, None)
    }

    fn last_words(&self) -> String {
        let mut words = String::new();
        for entry in fs::read_dir(self.path("logs")).into_iter().flatten().flatten() {
            if entry.path().extension().is_none_or(|extension| extension != "log") {
                continue;
            }
            let text = fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().filter(|line| !line.contains("access")).collect();
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            words.push_str(&format!("--- {} ---\n{}\n", entry.file_name().display(), last.join("\n")));
        }
        words
    }
}

/// The bystanders' namespace, and the line to it.
fn stand_by(network: &Network, line: &LineArgs) -> anyhow::Result<(Namespace, Emulator)> {
    let id = std::process::id();
    let bystanders = Namespace::new(format!("bad{id}b"))?;
    let devices = [format!("bad{id}t"), format!("bad{id}b")];
    let emulator = Emulator::start([&devices[0], &devices[1]], line.conditions(0.0), line.seed)?;
    for (namespace, device, address) in
        [(&network.server, &devices[0], BYSTANDERS[0]), (&bystanders, &devices[1], BYSTANDERS[1])]
    {
        namespace.take(device, address)?;
    }
    bystanders.ip(&["route", "add", &format!("{SERVER}/32"), "dev", &devices[1]])?;
    Ok((bystanders, emulator))
}

async fn exists(path: &Path) -> anyhow::Result<()> {
    let end = Instant::now() + START;
    while !path.exists() {
        anyhow::ensure!(Instant::now() < end, "no {} in {START:?}", path.display());
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
