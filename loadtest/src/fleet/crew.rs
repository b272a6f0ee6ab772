//! The agents of one process.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use measuring_kit::Link;
use prometheus::Registry;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tunnel::transport::{self, quic};
use tunnel_agent::config::Config;
use tunnel_agent::embedded::{Embedded, Means};
use tunnel_agent::metrics::Metrics;

use super::args::AgentsArgs;
use super::echo;
use super::events::Standing;
use crate::schedule::{Gaps, Random, Schedule};

/// Agents that share a UDP socket: more overflow its buffers, fewer use up the open files.
const PER_SOCKET: usize = 64;

/// Longest pause before an agent that left returns.
const AWAY: Duration = Duration::from_secs(2);

/// Agents in this process; dropping it ends them at once.
#[derive(Debug)]
pub(crate) struct Crew {
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
    /// Starts the agents, which join at the rate of the arguments.
    pub(crate) fn start(args: &AgentsArgs) -> anyhow::Result<Self> {
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
                sleep_until(start + offset).await;
                agent.live().await;
            });
        }
        agents.spawn(keep_flapping(rate, leave));
        Ok(Self { counts, metrics, flap, _agents: agents })
    }

    /// Sets the number of agents per second that leave and return.
    pub(crate) fn flap(&self, rate: f64) {
        self.flap.send_replace(rate);
    }

    pub(crate) fn standing(&self) -> Standing {
        let count = |outcome: &str| -> u64 {
            let links = [transport::Link::Quic, transport::Link::H2];
            links.into_iter().map(|link| self.metrics.tunnel_attempts(link, outcome)).sum()
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

/// Makes random agents leave, at the rate.
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

struct Agent {
    number: usize,
    config: Arc<Config>,
    means: Means,
    metrics: Metrics,
    counts: Arc<Counts>,
    /// Notified when the agent is to leave.
    leave: Arc<Notify>,
}

impl Agent {
    /// Joins, and leaves and returns whenever it is notified.
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

/// An agent's share of the count of connected agents.
struct Counted<'a> {
    counts: &'a Counts,
    connected: bool,
}

impl Counted<'_> {
    fn set(&mut self, connected: bool) {
        if connected && !self.connected {
            self.counts.connected.fetch_add(1, Ordering::Relaxed);
        } else if !connected && self.connected {
            self.counts.connected.fetch_sub(1, Ordering::Relaxed);
        }
        self.connected = connected;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The configurations of the agents.
struct Configs {
    base: Config,
    id: String,
    /// One for each UDP socket, and a last one without a socket.
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
        let mut means = vec![Means { answer: answer.clone(), dialer: None }];
        for socket in 0..sockets {
            let dialer = Some(quic::Dialer::new(local(server), base.datagrams)?);
            means.insert(socket, Means { answer: answer.clone(), dialer });
        }
        Ok(Self { base, id: args.id.clone(), means })
    }

    fn of(&self, number: usize) -> Arc<Config> {
        Arc::new(Config { agent_id: format!("{}-{number}", self.id), ..self.base.clone() })
    }

    fn means(&self, number: usize) -> Means {
        self.means[(number / PER_SOCKET).min(self.means.len() - 1)].clone()
    }
}

/// The local address of a socket to the server: loopback for a server on this machine.
fn local(server: SocketAddr) -> SocketAddr {
    match (server.is_ipv4(), server.ip().is_loopback()) {
        (true, true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (true, false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (false, true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (false, false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
