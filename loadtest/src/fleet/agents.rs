//! The agents of one process, or of the processes under this one.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser as _};
use prometheus::Registry;
use rustls::client::Resumption;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tunnel::transport::quic;
use tunnel_agent::config::Config;
use tunnel_agent::embedded::{Embedded, Means};
use tunnel_agent::metrics::Metrics;

use super::echo;
use super::events::{Order, Standing};
use super::processes::{Fleet, Spec};
use crate::cli::Link;
use crate::output::{self, Progress};
use crate::profile::{Gaps, Random, Schedule};

/// Agents that share a UDP socket, and with it its buffers.
const PER_SOCKET: usize = 64;

/// How exact the times are that are told.
const TELL_EVERY: Duration = Duration::from_millis(10);

/// Longest pause before an agent that left returns.
const AWAY: Duration = Duration::from_secs(2);

/// TLS sessions that one agent keeps; it knows one server.
const SESSIONS: usize = 8;

#[derive(Debug, Clone, Args)]
pub(crate) struct AgentsArgs {
    /// Where the server takes agents: `host:port`.
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) server: String,
    /// CA certificates of the server, PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: PathBuf,
    /// Certificate of all the agents, PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) cert: PathBuf,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// How many agents.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) count: u32,
    /// Their link.
    #[arg(long, value_enum, default_value_t = Link::Quic)]
    pub(super) link: Link,
    /// Agents that join per second.
    #[arg(long, default_value_t = 500.0, value_parser = rate)]
    pub(super) rate: f64,
    /// Agents per second that leave without a word and return within two seconds.
    #[arg(long, default_value_t = 0.0, value_parser = flap)]
    pub(super) flap: f64,
    /// Processes that they are spread over.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) processes: u32,
    /// Idle streams to open through `--streams-uds` once all agents are there.
    #[arg(long, default_value_t = 0, requires = "streams_uds", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(super) streams: u32,
    /// The server's frontend for them: gRPC on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub(super) streams_uds: Option<PathBuf>,
    /// Connect to targets, as agents do, instead of echoing in this process.
    #[arg(long)]
    pub(super) targets: bool,
    /// What is put in front of each agent's number for its id.
    #[arg(long, default_value = "simulated")]
    pub(super) id: String,
    /// Flags added to the agents', such as `--agent-arg=--sync-interval=500ms`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(super) agent_arg: Vec<String>,
    /// Seconds until all leave; without it, until a signal or the end of
    /// standard input.
    #[arg(long)]
    pub(super) seconds: Option<f64>,
    /// Take orders and tell numbers in JSON; for the process above.
    #[arg(long, hide = true)]
    pub(super) orders: bool,
}

pub(super) fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse()?;
    anyhow::ensure!((0.1..=100_000.0).contains(&rate), "not within 0.1 to 100000");
    Ok(rate)
}

pub(super) fn flap(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse()?;
    anyhow::ensure!((0.0..=10_000.0).contains(&rate), "not within 0 to 10000");
    Ok(rate)
}

/// `loadtest agents`, in either of its roles.
pub(super) async fn run(args: AgentsArgs) -> anyhow::Result<bool> {
    if args.orders {
        let crew = Crew::start(&args)?;
        tokio::select! {
            () = tell(&crew) => {}
            result = take_orders(&crew) => result?,
        }
        return Ok(true);
    }
    stand(args).await
}

/// Stands in front of the processes and says what becomes of them.
async fn stand(args: AgentsArgs) -> anyhow::Result<bool> {
    let (count, start) = (args.count as usize, Instant::now());
    let progress = Progress::new();
    let mut fleet = Fleet::start(&Spec::from(&args))?;
    let streams = async {
        let Some(uds) = args.streams_uds.clone().filter(|_| args.streams > 0) else { return Ok(None) };
        super::streams::open_grpc(&uds, args.streams).await.map(Some)
    };
    let mut streams = Some(Box::pin(streams));
    let mut held = None;
    let end = args.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
    let mut since = start;
    let mut all = false;
    loop {
        let standing = tokio::select! {
            standing = fleet.next() => standing?,
            () = until(end) => break,
        };
        progress.show(&standing.to_string());
        let now_all = standing.connected == count;
        if now_all != all {
            progress.clear();
            let seconds = since.elapsed().as_secs_f64();
            let what = if now_all { "all agents are connected" } else { "some agents are not connected" };
            output::line(&format!("{what} after {seconds:.2} s: {standing}"));
            (all, since) = (now_all, Instant::now());
        }
        if all && let Some(open) = streams.take() {
            held = open.await?;
            if let Some(held) = &held {
                output::line(&format!("{} idle streams are open", held.len()));
            }
        }
    }
    progress.clear();
    output::line(&fleet.standing().to_string());
    drop(held);
    Ok(all || args.flap > 0.0)
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Prints the numbers whenever they have changed.
async fn tell(crew: &Crew) {
    let mut last = None;
    let mut tick = interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let standing = crew.standing();
        if last != Some(standing) {
            last = Some(standing);
            output::line(&serde_json::to_string(&standing).unwrap_or_default());
        }
    }
}

/// Until standard input ends, which is the end of the process above.
async fn take_orders(crew: &Crew) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdin()?).lines();
    while let Some(line) = lines.next_line().await? {
        let Order::Flap(rate) = serde_json::from_str(&line)?;
        crew.flap(rate);
    }
    Ok(())
}

/// Standard input as a pipe: a thread that reads it would hold the process.
fn stdin() -> anyhow::Result<tokio::net::unix::pipe::Receiver> {
    use std::os::fd::AsFd as _;
    let owned = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::net::unix::pipe::Receiver::from_owned_fd(owned)?)
}

/// Agents in this process; dropping it ends them at once.
#[derive(Debug)]
pub(super) struct Crew {
    counts: Arc<Counts>,
    metrics: Metrics,
    flap: watch::Sender<f64>,
    _agents: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connected: AtomicUsize,
    left: AtomicU64,
}

impl Crew {
    /// Begins to join them, at the rate of the arguments.
    pub(super) fn start(args: &AgentsArgs) -> anyhow::Result<Self> {
        let metrics = Metrics::register(&Registry::new())?;
        let configs = Configs::new(args)?;
        let counts = Arc::new(Counts::default());
        let (flap, rate) = watch::channel(args.flap);
        let leave: Vec<Arc<Notify>> = (0..args.count).map(|_| Arc::default()).collect();
        let mut agents = JoinSet::new();
        let schedule = Schedule::new(Gaps::Steady, Duration::from_secs_f64(1.0 / args.rate), Random::new(1));
        let start = Instant::now();
        for ((number, leave), offset) in leave.iter().enumerate().zip(schedule) {
            let agent = Agent {
                number,
                config: configs.of(number),
                means: configs.means(number),
                metrics: metrics.clone(),
                counts: Arc::clone(&counts),
                leave: Arc::clone(leave),
            };
            agents.spawn(async move {
                tokio::time::sleep_until(start + offset).await;
                agent.live().await;
            });
        }
        agents.spawn(keep_flapping(rate, leave));
        Ok(Self { counts, metrics, flap, _agents: agents })
    }

    /// So many per second leave and return from now on.
    pub(super) fn flap(&self, rate: f64) {
        self.flap.send_replace(rate);
    }

    pub(super) fn standing(&self) -> Standing {
        let attempts = &self.metrics.tunnel_attempts;
        let count = |outcome: &str| -> u64 {
            ["quic", "h2"].iter().map(|link| attempts.with_label_values(&[*link, outcome]).get()).sum()
        };
        let failures = ["config", "lost", "tls", "rejected", "timeout", "duplicate", "greeting_failed"];
        Standing {
            connected: self.counts.connected.load(Ordering::Relaxed),
            tunnels: count("connected"),
            failed: failures.iter().map(|outcome| count(outcome)).sum(),
            left: self.counts.left.load(Ordering::Relaxed),
        }
    }
}

/// Makes agents leave, one after the other, at the rate.
async fn keep_flapping(mut rate: watch::Receiver<f64>, leave: Vec<Arc<Notify>>) {
    let mut random = Random::new(2);
    loop {
        let now = *rate.borrow_and_update();
        let pause = async {
            if now > 0.0 {
                sleep(Duration::from_secs_f64(1.0 / now)).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = pause => {
                let number = usize::try_from(random.next()).unwrap_or(0) % leave.len();
                leave[number].notify_one();
            }
            changed = rate.changed() => if changed.is_err() { return },
        }
    }
}

/// One of them.
struct Agent {
    number: usize,
    config: Arc<Config>,
    means: Means,
    metrics: Metrics,
    counts: Arc<Counts>,
    /// Told when it is to leave.
    leave: Arc<Notify>,
}

impl Agent {
    /// Joins, leaves and returns, for ever.
    async fn live(self) {
        let mut random = Random::member(3, 1, self.number as u64);
        loop {
            let mut agent = Embedded::start(&self.config, &self.metrics, self.means.clone());
            let mut counted = Counted { counts: &self.counts, connected: false };
            loop {
                tokio::select! {
                    connected = agent.changed() => counted.set(connected > 0),
                    () = self.leave.notified() => break,
                }
            }
            drop((agent, counted));
            self.counts.left.fetch_add(1, Ordering::Relaxed);
            sleep(AWAY.mul_f64(random.unit())).await;
        }
    }
}

/// An agent's part in the number of those connected.
struct Counted<'a> {
    counts: &'a Counts,
    connected: bool,
}

impl Counted<'_> {
    fn set(&mut self, connected: bool) {
        match (self.connected, connected) {
            (false, true) => {
                self.counts.connected.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.counts.connected.fetch_sub(1, Ordering::Relaxed);
            }
            (true, true) | (false, false) => {}
        }
        self.connected = connected;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// What the agents are started with.
struct Configs {
    base: Config,
    id: String,
    /// With the sockets of agents on QUIC.
    means: Vec<Means>,
}

impl Configs {
    fn new(args: &AgentsArgs) -> anyhow::Result<Self> {
        let (host, port) = args.server.rsplit_once(':').context("--server is HOST:PORT")?;
        let flags = [
            "agents".to_owned(),
            format!("--proxy-server-host={host}"),
            format!("--proxy-server-port={port}"),
            format!("--ca-cert={}", args.ca.display()),
            format!("--agent-cert={}", args.cert.display()),
            format!("--agent-key={}", args.key.display()),
            format!("--transport={}", args.link.name()),
        ];
        let cli = tunnel_agent::cli::Cli::try_parse_from(flags.iter().chain(&args.agent_arg))?;
        let base = Config::try_from(cli)?;
        let sockets = match args.link {
            Link::H2 => 0,
            Link::Quic => (args.count as usize).div_ceil(PER_SOCKET),
        };
        let server = args.server.to_socket_addrs().context("--server")?.next().context("--server")?;
        let answer = (!args.targets).then(echo::answer);
        let mut means = vec![Means { answer: answer.clone(), endpoint: None }];
        for socket in 0..sockets {
            let endpoint = Some(quic::Dialer::new(local(server), base.datagrams)?);
            means.insert(socket, Means { answer: answer.clone(), endpoint });
        }
        Ok(Self { base, id: args.id.clone(), means })
    }

    fn of(&self, number: usize) -> Arc<Config> {
        // Else one agent would use the sessions of another.
        let mut tls = (*self.base.tls).clone();
        tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        let agent_id = format!("{}-{number}", self.id);
        Arc::new(Config { agent_id, tls: Arc::new(tls), ..self.base.clone() })
    }

    fn means(&self, number: usize) -> Means {
        // The last has no socket, and is for agents that need none.
        self.means[(number / PER_SOCKET).min(self.means.len() - 1)].clone()
    }
}

/// A socket that reaches the server, and nothing else if the server is here.
fn local(server: SocketAddr) -> SocketAddr {
    match (server.is_ipv4(), server.ip().is_loopback()) {
        (true, true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (true, false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (false, true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (false, false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
