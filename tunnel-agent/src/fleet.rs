//! Tunnels to all servers, kept up until the agent drains.
//!
//! One task owns the [`Plan`], which decides, and carries its decisions out. Attempts,
//! lookups and sessions are tasks of their own that report to it.

mod credentials;
mod demand;
mod describe;
mod entries;
mod pace;
mod plan;
mod report;
mod session;
mod tasks;
mod ways;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use tunnel::drain::Drain;
use tunnel::liveness::{Health, Patience};
use tunnel::transport::{GreetingError, quic};
use tunnel_kube::leases::Counted;
use tunnel_program::warn_seldom;

use crate::cli::Transport;
use crate::config::Config;
use crate::connect::{ConnectError, Connector, Established, Tried};
use crate::dial::Permits;
use crate::metrics::Metrics;
use crate::serve::{Answer, Serving};

pub use tasks::Lookup;

pub(crate) use describe::Description;

use credentials::Credentials;
use demand::Demand;
use describe::Failures;
use pace::Pace;
use plan::{Action, Attempt, Manner, Plan, Purpose, Silenced, Verdict};
use report::{Report, Servers};
use tasks::Tasks;

/// Reports that wait for the fleet's task. More than there are attempts, lookups and
/// sessions: with fewer, the report of an aborted task is lost.
const REPORTS: usize = 1024;

/// Time for tunnels to close once nothing is left on them. Shorter, and slow networks lose the
/// last bytes; longer, and a silent server delays the exit.
const TUNNELS_CLOSE: Duration = Duration::from_secs(2);

/// Parts that only an embedded agent takes from its host program.
#[derive(Clone, Default)]
pub struct Means {
    /// A UDP socket for all tunnels on QUIC; each attempt has its own if `None`. Load balancers
    /// that hash ports lead all agents with one socket to one server.
    pub dialer: Option<quic::Dialer>,
    /// Answers dials; the agent connects to targets if `None`.
    pub answer: Option<Answer>,
}

/// Parts that a fleet takes from its program.
#[derive(Default)]
pub(crate) struct Sources {
    /// The valid Leases of servers, `None` while they are unknown.
    pub(crate) leases: Option<watch::Receiver<Option<Counted>>>,
    /// The resolver; the system's if `None`.
    pub(crate) lookup: Option<Lookup>,
    pub(crate) means: Means,
    /// The agent's token, whenever it was renewed.
    pub(crate) tokens: Option<watch::Receiver<Arc<str>>>,
}

/// The fleet, seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    pub(crate) servers: watch::Receiver<Servers>,
    sessions: TaskTracker,
    reports: mpsc::Sender<Report>,
}

impl Fleet {
    /// Starts to keep tunnels to all servers, until the drain starts.
    pub(crate) fn start(config: &Arc<Config>, metrics: &Metrics, drain: &Drain, sources: Sources) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS);
        let (servers, seen) = watch::channel(Servers::default());
        let sessions = TaskTracker::new();
        let Means { dialer, answer } = sources.means;
        let asked = reports.clone();
        let connector = Connector::new(Arc::clone(config), metrics.clone(), drain.clone(), dialer);
        let mut keeper = Keeper {
            plan: plan(config),
            servers,
            tokens: sources.tokens.unwrap_or_else(|| watch::channel(Arc::from("")).1),
            tasks: Tasks {
                connector: Arc::new(connector),
                lookup: sources.lookup,
                servers: seen.clone(),
                reports,
                drain: drain.clone(),
            },
            running: HashMap::new(),
            sessions: sessions.clone(),
            config: Arc::clone(config),
            failures: Failures::default(),
            disagreed: false,
            patience: config.patience,
            serving: Arc::new(Serving {
                answer,
                permits: Permits::new(config, metrics),
                ack_timeout: config.ack_timeout,
                metrics: metrics.clone(),
                drain: drain.clone(),
            }),
        };
        let mut leases = sources.leases.unwrap_or_else(|| watch::channel(None).1);
        keeper.leased(leases.borrow_and_update().as_ref());
        keeper.publish();
        drain.spawn("fleet", keeper.keep(inbox, leases));
        Self { servers: seen, sessions, reports: asked }
    }

    /// Drains: asks the servers for no more work, lets connections end within `grace`, and
    /// waits for the tunnels to close. Returns the number of connections cut. Cancel safe.
    pub(crate) async fn drain(&self, drain: &Drain, grace: Duration) -> usize {
        let cut = drain.run(grace).await.cut;
        if cut == 0 {
            // Tunnels close by themselves, after their last bytes and after dials in flight.
            self.sessions.close();
            let _ = timeout(TUNNELS_CLOSE, self.sessions.wait()).await;
        }
        cut
    }
}

/// The name of the reason in logs.
const fn label(error: &ConnectError) -> &'static str {
    match error {
        ConnectError::Greeting(error) => error.label(),
        ConnectError::Handshake(error) => error.reason(),
        ConnectError::Token(_) => "no_token",
    }
}

fn plan(config: &Config) -> Plan {
    let manner = Manner {
        pace: Pace::new(config.sync.interval, config.sync.cap),
        forever: config.sync.forever,
        upgrades: config.transport == Transport::Auto,
    };
    let random = Box::new(|| rand::rng().random());
    Plan::new(&config.servers, Demand::new(config.count_source), manner, random, Instant::now())
}

/// The fleet's task.
struct Keeper {
    plan: Plan,
    servers: watch::Sender<Servers>,
    tokens: watch::Receiver<Arc<str>>,
    tasks: Tasks,
    /// Sessions by serial number.
    running: HashMap<u64, session::Handle>,
    sessions: TaskTracker,
    config: Arc<Config>,
    failures: Failures,
    /// Whether servers differ about their number, and the log says so.
    disagreed: bool,
    patience: Patience,
    serving: Arc<Serving>,
}

impl Keeper {
    async fn keep(mut self, mut inbox: mpsc::Receiver<Report>, mut leases: watch::Receiver<Option<Counted>>) {
        let mut renewals = self.config.tls.changes();
        let mut looks = interval(credentials::look_every(self.config.renewal));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for action in self.plan.due(Instant::now()) {
                match action {
                    Action::Resolve(server) => self.tasks.resolve(server),
                    Action::Dial(attempt, course) => self.tasks.dial(attempt, course),
                    Action::Retire(serial) => {
                        if let Some(session) = self.running.get(&serial) {
                            session.retire();
                        }
                    }
                }
            }
            self.publish();
            let wake = self.plan.wake();
            tokio::select! {
                biased;
                () = self.serving.drain.killed() => return,
                () = self.serving.drain.started(), if !self.plan.stopped => self.plan.stopped = true,
                // Never closed, since `self.tasks` holds a sender.
                Some(report) = inbox.recv() => self.take(report),
                // Closed while nobody counts Leases; the last count stays.
                Ok(()) = leases.changed() => self.leased(leases.borrow_and_update().as_ref()),
                Ok(()) = renewals.changed() => self.look(true),
                Ok(()) = self.tokens.changed() => self.show_token(),
                _ = looks.tick() => self.look(false),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    fn publish(&mut self) {
        let (connected, wanted) = self.plan.numbers();
        let failure = if connected == 0 { self.failures.latest() } else { None };
        let alone = (connected == 0).then(|| self.servers.borrow().alone.unwrap_or_else(Instant::now));
        let held = self.plan.held().map(str::to_owned).collect();
        let now = Servers { connected: held, wanted, failure, alone };
        self.servers.send_if_modified(|servers| {
            let modified = *servers != now;
            if modified {
                self.serving.metrics.set_servers(connected, wanted);
                *servers = now;
            }
            modified
        });
    }

    /// The valid Leases changed.
    fn leased(&mut self, counted: Option<&Counted>) {
        let (Some(counted), Some(first)) = (counted, self.config.servers.first()) else { return };
        // A proxy is asked for the servers' name, and finds their addresses itself.
        let is_direct = |addr: &SocketAddr| !self.tasks.connector.is_proxied(&first.host, addr.port());
        let addresses = counted.addresses.iter().copied().filter(is_direct).collect();
        self.plan.leased(&Counted { addresses, ..*counted }, Instant::now());
    }

    fn take(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Resolved(server, result) => {
                if let Err(error) = &result {
                    warn_seldom!(("connect", "dns"), %server, error, "cannot resolve the servers' name");
                    self.failures.note(&server, error, now);
                }
                self.plan.resolved(&server, result.ok().as_deref(), now);
            }
            Report::Attempted(attempt, tried) => self.attempted(&attempt, tried, now),
            Report::Session { serial, server_id, health } => self.session(serial, &server_id, health, now),
            // Fails only when the asker has given up.
            Report::Describe(asker) => drop(asker.send(self.describe(now))),
        }
    }

    /// An attempt is over; `None` without an outcome.
    fn attempted(&mut self, attempt: &Attempt, tried: Option<Tried>, now: Instant) {
        let server = &attempt.endpoint;
        let Some(Tried { won, h2_timed_out, result }) = tried else {
            return self.plan.failed(attempt, now);
        };
        if let Some(won) = won {
            self.plan.raced(server, won, now);
        }
        if h2_timed_out {
            self.plan.timed_out(server, now);
        }
        let error = match result {
            Ok(established) => return self.connected(attempt, *established, now),
            Err(ConnectError::Greeting(GreetingError::Duplicate(id))) => {
                if self.plan.duplicate(attempt, &id, now) {
                    info!(%server, id, "this is a server to which there is a tunnel already");
                } else {
                    debug!(%server, id, "a server to which there is a tunnel already");
                }
                return self.tell_of_search();
            }
            Err(error) => error,
        };
        self.failures.note(server, &error, now);
        match attempt.purpose {
            Purpose::Upgrade(_) => debug!(%server, %error, "no better tunnel yet"),
            // The operator's own addresses have a line of their own.
            Purpose::Need if self.plan.is_leased(server) => {
                warn_seldom!(("lease", label(&error)), %server, %error, "cannot connect to an address of a lease");
            }
            Purpose::Need | Purpose::Search | Purpose::Renew(_) => {
                warn_seldom!(("connect", label(&error)), %server, %error, "cannot connect");
            }
        }
        self.plan.failed(attempt, now);
    }

    fn session(&mut self, serial: u64, id: &str, health: Health, now: Instant) {
        match health {
            Health::Draining { .. } => {
                info!(id, "the server is draining");
                self.plan.draining(id, serial, now);
            }
            Health::Suspect => match self.plan.suspect(id, serial, now) {
                Silenced::Lost => warn!(id, "the server is silent: looking for another tunnel to it"),
                Silenced::Spared => warn!(id, "the tunnel on QUIC is silent: the one on h2 is used on"),
                Silenced::Replaced => {}
            },
            Health::Back => {
                if self.plan.back(id, serial, now) {
                    info!(id, "the server is heard of again");
                }
            }
            Health::Renew(reason) => {
                if self.plan.replace(serial, now).is_some() {
                    warn!(id, reason, "the server ends this tunnel soon: looking for another one to it");
                }
            }
            // Kept by the session.
            Health::Token(_) => {}
            Health::Dead(why) => {
                self.running.remove(&serial);
                self.note_lost(serial, &why, now);
                let drained = self.plan.is_draining(id, serial);
                match (self.plan.ended(id, serial, now), drained) {
                    (true, true) => info!(id, why, "disconnected: the server has drained"),
                    (true, false) => warn!(id, why, "disconnected"),
                    (false, _) => {}
                }
            }
        }
    }

    fn connected(&mut self, attempt: &Attempt, established: Established, now: Instant) {
        let Established { greeted, made_with } = established;
        if self.plan.stopped {
            return greeted.tunnel.close("the agent is draining");
        }
        let (server, link, welcome) = (&attempt.endpoint, greeted.tunnel.link(), &greeted.welcome);
        let id = welcome.server_id.clone();
        let Verdict::Keep { serial, replaces } = self.plan.connected(attempt, welcome, link, now) else {
            self.tell_of_search();
            // Two attempts at a time led to one server. It has not registered
            // this tunnel, because it has not heard a heartbeat on it.
            info!(%server, id, "there is a tunnel to this server already");
            return greeted.tunnel.close("duplicate");
        };
        self.failures.forget(server);
        self.tell_of_counts();
        let why = self.reason(serial, link, server);
        self.serving.metrics.tunnel_established(link, why);
        info!(%server, id, link = link.label(), %why, software = welcome.software, "connected");
        let (serving, reports) = (Arc::clone(&self.serving), self.tasks.reports.clone());
        let credentials = Credentials::new(made_with, rand::rng().random());
        let (sessions, patience) = (&self.sessions, self.patience);
        let mut session = session::start(greeted, credentials, serial, patience, sessions, serving, reports);
        // The token may have been renewed since the greeting.
        session.show(&self.tokens.borrow());
        self.running.insert(serial, session);
        if let Some(old) = replaces.and_then(|old| self.running.get(&old)) {
            info!(%server, id, "in place of an older tunnel");
            old.retire();
        }
    }
}
