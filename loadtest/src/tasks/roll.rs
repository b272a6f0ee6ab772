//! `loadtest roll`: servers and agents are replaced one after the other, by another version if it is given,
//! under dials and streams of which none may fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Certificates, Child, Link, ScoreArgs, beside, get};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::bystander::{Dials, Echoed, dials};
use crate::dialing::{with_echo, within};
use crate::figures::Outcome;
use crate::ours::{AgentAt, HOST, Ports, agent_flags, free_ports, server_flags, start};
use crate::plan::number_within;
use crate::reasons::Reasons;
use crate::report::Report;
use crate::target::process::TargetProcess;

/// Time for a program to become ready, or to end: some back-offs and a drain.
const LIMIT: Duration = Duration::from_secs(60);

/// Time for a program to end at a SIGHUP, if it does: a kernel needs less than a millisecond, a busy machine some more.
const HANG_UP: Duration = Duration::from_millis(100);

/// Time from the moment at which a server gets no more clients to its end: a client that has just chosen it connects.
const TAKEN_OUT: Duration = Duration::from_millis(500);

/// Bytes of a piece of a stream: one that fills no window, so that it comes back at once.
const PIECE: usize = 4096;

/// Pause between two pieces of a stream.
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Args)]
pub(crate) struct RollArgs {
    /// The server's program that replaces the first.
    #[arg(long, value_name = "FILE", default_value_os_t = beside("tunnel-server"))]
    server_bin: PathBuf,
    /// The agent's program that replaces the first.
    #[arg(long, value_name = "FILE", default_value_os_t = beside("tunnel-agent"))]
    agent_bin: PathBuf,
    /// The server's program at first, such as that of the last release; --server-bin without it.
    #[arg(long, value_name = "FILE")]
    old_server_bin: Option<PathBuf>,
    /// The agent's program at first; --agent-bin without it.
    #[arg(long, value_name = "FILE")]
    old_agent_bin: Option<PathBuf>,
    /// Only these links.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::Quic, Link::H2])]
    link: Vec<Link>,
    /// Servers, each with its frontend.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16))]
    servers: u16,
    /// Agents, each with a tunnel to every server.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=64))]
    agents: u16,
    /// Dials per second.
    #[arg(long, default_value_t = 200.0, value_parser = number_within(1.0, 10_000.0))]
    rate: f64,
    /// Streams at once. Each ends after --stream-seconds, and another follows.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=4096))]
    streams: u16,
    /// Life of a stream: shorter than the drain, so that each has its time.
    #[arg(long, default_value_t = 3.0, value_parser = number_within(0.1, 600.0))]
    stream_seconds: f64,
    /// Seconds of a drain.
    #[arg(long, default_value_t = 10.0, value_parser = number_within(1.0, 600.0))]
    drain_seconds: f64,
    /// Directory for the programs' logs.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    scores: ScoreArgs,
}

pub(crate) async fn run(args: &RollArgs) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    let mut report = Report::bare();
    for &link in &args.link {
        let mut outcome = Outcome::default();
        if let Err(error) = Box::pin(measure(args, link, &mut outcome)).await {
            outcome.fail(format!("{error:#}"));
        }
        report.add("connect-uds", link.name(), "roll", outcome);
    }
    args.scores.write(report.scores())?;
    report.deliver(args.json.as_deref(), false)
}

async fn measure(args: &RollArgs, link: Link, outcome: &mut Outcome) -> anyhow::Result<()> {
    let dir = TempDir::new()?;
    let target = TargetProcess::start().await?;
    let mut cluster = Cluster::start(args, link, dir.path()).await?;
    let load = Load::begin(args, &cluster, &target.addresses.commands.to_string());
    let began = Instant::now();
    let rolled = Box::pin(cluster.roll()).await;
    let seconds = began.elapsed().as_secs_f64();
    let result = load.end().await?;
    outcome.add("rolled in", seconds, "s");
    outcome.add("dials", result.dials.done as f64, "dials");
    outcome.add("dials that failed", result.dials.failed.total() as f64, "dials");
    outcome.add_latency("dial", &result.dials.times);
    outcome.add("streams", result.streams as f64, "streams");
    outcome.add("streams that failed", result.failed_streams.total() as f64, "streams");
    for (what, failed) in [("dials", &result.dials.failed), ("streams", &result.failed_streams)] {
        if failed.total() > 0 {
            outcome.fail(format!("{what} failed: {failed}"));
        }
    }
    outcome.tried("dials", result.dials.done, result.dials.failed.total());
    outcome.tried("streams", result.streams, result.failed_streams.total());
    rolled
}

/// A program that runs, and the means to start it again.
struct Member {
    name: &'static str,
    child: Child,
    flags: Vec<String>,
    log: PathBuf,
    health: u16,
}

impl Member {
    async fn start(
        name: &'static str,
        program: &Path,
        flags: Vec<String>,
        log: PathBuf,
        health: u16,
    ) -> anyhow::Result<Self> {
        let mut child = start(name, program, &flags, &log)?;
        child.wait_for_port(health).await?;
        Ok(Self { name, child, flags, log, health })
    }

    async fn replace(&mut self, program: &Path) -> anyhow::Result<()> {
        self.child.terminate(LIMIT).await?;
        self.child = start(self.name, program, &self.flags, &self.log)?;
        self.child.wait_for_port(self.health).await
    }

    /// Waits until an agent has a tunnel to every server.
    async fn has_all(&self) -> anyhow::Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            let answer = get(self.health, "/readyz?servers=all").await.unwrap_or_default();
            if answer.starts_with("HTTP/1.1 200 ") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{answer}\n{}", self.child.last_words());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Cluster {
    args: RollArgs,
    servers: Vec<Member>,
    agents: Vec<Member>,
    frontends: Arc<[Frontend]>,
}

/// A server as the clients' load balancer sees it.
struct Frontend {
    endpoint: Endpoint,
    /// Whether it gets new clients. A balancer takes a server out before it is replaced.
    is_in: AtomicBool,
}

impl Cluster {
    async fn start(args: &RollArgs, link: Link, dir: &Path) -> anyhow::Result<Self> {
        let certificates = Certificates::write(dir, HOST)?;
        let logs = args.logs.as_deref().unwrap_or(dir);
        let drain = format!("{}ms", (args.drain_seconds * 1e3).round());
        let (mut servers, mut hosts, mut frontends) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..args.servers {
            let ports = Ports { frontend: 0, ..Ports::free()? };
            let uds = dir.join(format!("{number}.socket"));
            let mut flags = server_flags(&certificates, &ports, &uds);
            flags.extend([
                format!("--server-id=server-{number}"),
                format!("--server-count={}", args.servers),
                format!("--graceful-shutdown-timeout={drain}"),
            ]);
            hosts.push(format!("{HOST}:{}", ports.link));
            let log = logs.join(format!("server-{}-{number}.log", link.name()));
            let program = args.old_server_bin.as_ref().unwrap_or(&args.server_bin);
            servers.push(Member::start("server", program, flags, log, ports.server_health).await?);
            frontends.push(Frontend { endpoint: Endpoint::unix(uds), is_in: AtomicBool::new(true) });
        }
        let mut agents = Vec::new();
        for number in 0..args.agents {
            let [health, admin] = free_ports()?;
            let (servers, id) = (hosts.join(","), format!("agent-{number}"));
            let at = AgentAt { servers: &servers, link, id: &id, health, admin };
            let mut flags = agent_flags(&certificates, &at);
            flags.push(format!("--graceful-shutdown-timeout={drain}"));
            let log = logs.join(format!("agent-{}-{number}.log", link.name()));
            let program = args.old_agent_bin.as_ref().unwrap_or(&args.agent_bin);
            agents.push(Member::start("agent", program, flags, log, health).await?);
        }
        let cluster = Self { args: args.clone(), servers, agents, frontends: frontends.into() };
        cluster.is_whole().await.context("before anything is replaced")?;
        Ok(cluster)
    }

    async fn is_whole(&self) -> anyhow::Result<()> {
        for agent in &self.agents {
            agent.has_all().await?;
        }
        Ok(())
    }

    /// Sends SIGHUP to all programs, which live and serve all the same.
    async fn hang_up(&mut self) -> anyhow::Result<()> {
        for member in self.servers.iter().chain(&self.agents) {
            member.child.signal("HUP")?;
        }
        sleep(HANG_UP).await;
        for member in self.servers.iter_mut().chain(&mut self.agents) {
            member.child.lives().context("after SIGHUP")?;
        }
        self.is_whole().await.context("after SIGHUP")
    }

    /// Replaces the servers and then the agents, one after the other, with a SIGHUP to all before each.
    async fn roll(&mut self) -> anyhow::Result<()> {
        for number in 0..self.servers.len() {
            self.hang_up().await?;
            self.frontends[number].is_in.store(false, Ordering::Relaxed);
            sleep(TAKEN_OUT).await;
            self.servers[number].replace(&self.args.server_bin).await?;
            self.is_whole().await.with_context(|| format!("after server {number}"))?;
            self.frontends[number].is_in.store(true, Ordering::Relaxed);
        }
        for number in 0..self.agents.len() {
            self.hang_up().await?;
            self.agents[number].replace(&self.args.agent_bin).await?;
            self.agents[number].has_all().await.with_context(|| format!("after agent {number}"))?;
        }
        Ok(())
    }
}

/// The clients.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<anyhow::Result<Sum>>,
}

/// The result of clients.
struct Sum {
    dials: Dials,
    streams: u64,
    failed_streams: Reasons,
}

/// A client's means to reach the target.
#[derive(Clone)]
struct Way {
    frontends: Arc<[Frontend]>,
    next: Arc<AtomicU64>,
    target: String,
}

impl Way {
    async fn dial(&self) -> anyhow::Result<Connection> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) as usize;
        let mut turns =
            (0..self.frontends.len()).map(|n| &self.frontends[(first + n) % self.frontends.len()]);
        let frontend = turns.find(|one| one.is_in.load(Ordering::Relaxed)).context("no server is in")?;
        let options = Options::default();
        let dialled = dial(Protocol::Connect, &frontend.endpoint, &self.target, &options);
        with_echo(within("dial", dialled).await??).await
    }

    /// Bytes there and back, until the time is over.
    async fn stream(&self, life: Duration, seed: u64) -> anyhow::Result<()> {
        let end = Instant::now() + life;
        let mut echoed = Echoed::new(self.dial().await?, seed, PIECE);
        while Instant::now() < end {
            echoed.round_trip().await?;
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Load {
    fn begin(args: &RollArgs, cluster: &Cluster, target: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (frontends, next) = (Arc::clone(&cluster.frontends), Arc::default());
        let way = Way { frontends, next, target: target.to_owned() };
        let mut clients = JoinSet::new();
        let (dialling, rate, stopped) = (way.clone(), args.rate, Arc::clone(&stop));
        clients.spawn(async move {
            let dial = || {
                let way = dialling.clone();
                async move { way.dial().await }
            };
            Ok(Sum { dials: dials(dial, rate, stopped).await?, ..Sum::new()? })
        });
        for number in 0..args.streams {
            let life = Duration::from_secs_f64(args.stream_seconds);
            clients.spawn(streams(way.clone(), life, number.into(), Arc::clone(&stop)));
        }
        Self { stop, clients }
    }

    async fn end(mut self) -> anyhow::Result<Sum> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Sum::new()?;
        while let Some(client) = self.clients.join_next().await {
            let Sum { dials, streams, failed_streams } = client??;
            sum.dials.add(dials)?;
            sum.streams += streams;
            sum.failed_streams.add(failed_streams);
        }
        Ok(sum)
    }
}

impl Sum {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { dials: Dials::new()?, streams: 0, failed_streams: Reasons::default() })
    }
}

/// One stream after the other.
async fn streams(way: Way, life: Duration, client: u64, stop: Arc<AtomicBool>) -> anyhow::Result<Sum> {
    let mut sum = Sum::new()?;
    while !stop.load(Ordering::Relaxed) {
        let seed = client << 32 | sum.streams;
        if let Err(error) = Box::pin(way.stream(life, seed)).await {
            sum.failed_streams.count(&format!("{error:#}"));
            // Nothing that fails at once may keep the processors busy.
            sleep(PAUSE).await;
        }
        sum.streams += 1;
    }
    Ok(sum)
}
