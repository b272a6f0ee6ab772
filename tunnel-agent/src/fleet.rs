//! Tunnels to all servers, kept up for ever.
//!
//! One task owns the [`Plan`], which decides, and the sessions. Attempts,
//! lookups and watches of sessions are tasks of their own that report to it.

mod demand;
mod describe;
mod entries;
mod pace;
mod plan;
mod report;
mod standing;
mod tasks;

use std::collections::HashMap;
use std::sync::Arc;

use rand::RngExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use tunnel::drain::Drain;
use tunnel::liveness::{Health, Patience};
use tunnel::transport::{Greeted, GreetingError, quic};

use crate::cli::Transport;
use crate::config::Config;
use crate::connect::{ConnectError, Connector};
use crate::metrics::Metrics;
use crate::serve::{Answer, Serving};
use crate::session::{Session, SessionEvent};
use crate::way::Way;

pub(crate) use standing::Servers;
pub use tasks::Lookup;

pub(crate) use describe::Description;

use demand::Demand;
use describe::Failures;
use pace::Pace;
use plan::{Action, Manner, News, Plan, Purpose, Verdict};
use report::Report;
use standing::Standing;
use tasks::{Tasks, past_proxies, system_lookup};

/// Reports that wait for the fleet's task: more than there are attempts,
/// lookups and sessions, so that none waits long.
const REPORTS: usize = 1024;

/// Parts that only an embedded agent takes from its host program.
#[derive(Clone, Default)]
pub struct Means {
    /// A UDP socket that it shares with others for all its tunnels on QUIC;
    /// without one, each attempt has its own. Behind a load balancer that goes
    /// by ports, agents that share one all reach the same server.
    pub endpoint: Option<quic::Dialer>,
    /// Answers dials; without it the agent connects to targets.
    pub answer: Option<Answer>,
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Means")
            .field("endpoint", &self.endpoint)
            .field("answer", &self.answer.is_some())
            .finish()
    }
}

/// What a fleet takes from outside.
#[derive(Default)]
pub(crate) struct Sources {
    /// How many Leases of servers are valid; `None` while that is not known.
    pub(crate) leases: Option<watch::Receiver<Option<u32>>>,
    /// How names are resolved; by the system if absent.
    pub(crate) lookup: Option<Lookup>,
    /// Parts of an embedded agent.
    pub(crate) means: Means,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("leases", &self.leases).finish_non_exhaustive()
    }
}

/// The fleet, seen from outside. Clones are the same fleet.
#[derive(Debug, Clone)]
pub(crate) struct Fleet {
    servers: watch::Receiver<Servers>,
    sessions: TaskTracker,
    reports: mpsc::Sender<Report>,
}

impl Fleet {
    /// Begins to keep tunnels to all servers, until the drain starts.
    pub(crate) fn start(config: &Arc<Config>, metrics: &Metrics, drain: &Drain, sources: Sources) -> Self {
        let (reports, inbox) = mpsc::channel(REPORTS);
        let (standing, servers) = Standing::new(metrics);
        let sessions = TaskTracker::new();
        let Means { endpoint, answer } = sources.means;
        let asked = reports.clone();
        let connector = Connector::new(Arc::clone(config), metrics.clone(), drain.clone(), endpoint);
        let tasks = Tasks {
            connector: Arc::new(connector),
            lookup: past_proxies(sources.lookup.unwrap_or_else(system_lookup), config.proxies.clone()),
            servers: servers.clone(),
            reports,
            drain: drain.clone(),
        };
        let mut keeper = Keeper {
            plan: plan_of(config),
            standing,
            tasks,
            running: HashMap::new(),
            tracker: sessions.clone(),
            answer,
            config: Arc::clone(config),
            failures: Failures::default(),
            patience: config.patience,
            metrics: metrics.clone(),
            drain: drain.clone(),
        };
        let mut leases = sources.leases;
        if let Some(counter) = &mut leases {
            keeper.plan.leased(*counter.borrow_and_update(), Instant::now());
        }
        keeper.publish();
        drain.spawn("fleet", keeper.keep(inbox, leases));
        Self { servers, sessions, reports: asked }
    }

    /// Servers connected and wanted, now and when that changes.
    pub(crate) fn servers(&self) -> watch::Receiver<Servers> {
        self.servers.clone()
    }

    /// Waits until all tunnels are over, which they are by themselves once the
    /// drain began and their last streams ended. Cancel safe.
    pub(crate) async fn all_ended(&self) {
        self.sessions.close();
        self.sessions.wait().await;
    }
}

fn plan_of(config: &Config) -> Plan {
    let manner = Manner {
        pace: Pace::new(config.sync.interval, config.sync.cap),
        forever: config.sync.forever,
        upgrades: config.transport == Transport::Auto,
    };
    let demand = Demand::new(config.count_source);
    let random = Box::new(|| rand::rng().random());
    Plan::new(&config.servers, demand, manner, random, Instant::now())
}

/// The task that owns it all.
struct Keeper {
    plan: Plan,
    standing: Standing,
    tasks: Tasks,
    /// Sessions by serial number, retired ones included.
    running: HashMap<u64, Session>,
    tracker: TaskTracker,
    answer: Option<Answer>,
    config: Arc<Config>,
    failures: Failures,
    patience: Patience,
    metrics: Metrics,
    drain: Drain,
}

impl Keeper {
    async fn keep(
        mut self,
        mut inbox: mpsc::Receiver<Report>,
        mut leases: Option<watch::Receiver<Option<u32>>>,
    ) {
        loop {
            for action in self.plan.due(Instant::now()) {
                match action {
                    Action::Resolve(server) => self.tasks.resolve(server),
                    Action::Dial(way, purpose) => self.tasks.dial(way, purpose),
                }
            }
            self.publish();
            let wake = self.plan.wake();
            tokio::select! {
                biased;
                () = self.drain.killed() => return,
                () = self.drain.started(), if !self.plan.is_stopped() => self.plan.stop(),
                // Never closed: the tasks' own end of it is in `self`.
                Some(report) = inbox.recv() => self.take(report),
                count = changed(&mut leases) => self.plan.leased(count, Instant::now()),
                () = until(wake) => {}
            }
        }
    }

    fn publish(&mut self) {
        let (connected, wanted) = self.plan.numbers();
        self.standing.publish(connected, wanted, self.plan.held());
    }

    fn take(&mut self, report: Report) {
        let now = Instant::now();
        match report {
            Report::Resolved(server, result) => {
                if let Err(error) = &result {
                    warn!(%server, error, "cannot resolve the servers' name");
                    self.failures.note(&server, error, now);
                }
                self.plan.resolved(&server, result.ok().as_deref(), now);
            }
            Report::Attempted(way, purpose, Some(Ok(greeted))) => {
                self.connected(&way, &purpose, *greeted, now)
            }
            Report::Attempted(
                way,
                purpose,
                Some(Err(ConnectError::Greeting(GreetingError::Duplicate(id)))),
            ) => {
                self.duplicate(&way, &purpose, &id, now);
            }
            Report::Attempted(way, purpose, Some(Err(error))) => {
                self.failures.note(&way, &error, now);
                if let Purpose::Upgrade(_) = purpose {
                    debug!(server = %way, %error, "no better tunnel yet");
                } else {
                    warn!(server = %way, %error, "cannot connect");
                }
                self.plan.failed(&way, &purpose, now);
            }
            Report::Attempted(way, purpose, None) => self.plan.failed(&way, &purpose, now),
            Report::Session(event) => self.session(event, now),
            // Nobody waits any more if this fails.
            Report::Describe(asker) => drop(asker.send(self.describe(now))),
        }
    }

    fn session(&mut self, SessionEvent { serial, server_id: id, health }: SessionEvent, now: Instant) {
        match health {
            Health::Draining(_) => {
                info!(id, "the server is draining");
                self.plan.draining(&id, serial, now);
            }
            Health::Suspect => {
                if self.plan.suspect(&id, serial, now) {
                    warn!(id, "the server is silent: looking for another tunnel to it");
                }
            }
            Health::Back => {
                if self.plan.back(&id, serial, now) {
                    info!(id, "the server is heard of again");
                }
            }
            Health::Dead(why) => {
                self.running.remove(&serial);
                self.note_lost(serial, &why, now);
                if self.plan.ended(&id, serial, now) {
                    warn!(id, why, "disconnected");
                }
            }
        }
    }

    fn connected(&mut self, way: &Way, purpose: &Purpose, greeted: Greeted, now: Instant) {
        if self.plan.is_stopped() {
            return greeted.tunnel.close("the agent is draining");
        }
        let news = News {
            server_id: greeted.welcome.server_id.clone(),
            link: greeted.tunnel.link(),
            server_count: greeted.welcome.server_count,
        };
        let id = news.server_id.as_str();
        let Verdict::Keep { serial, replaces } = self.plan.connected(way, purpose, &news, now) else {
            // Two attempts at a time led to one server. It has not registered
            // this tunnel, because it has not heard a heartbeat on it.
            info!(server = %way, id, "there is a tunnel to this server already");
            return greeted.tunnel.close("duplicate");
        };
        self.failures.forget(way);
        info!(server = %way, id, link = news.link.label(), software = greeted.welcome.software, "connected");
        let serving = Arc::new(Serving {
            answer: self.answer.clone(),
            metrics: self.metrics.clone(),
            drain: self.drain.clone(),
        });
        let reports = self.tasks.reports.clone();
        let session = Session::start(greeted, serial, self.patience, &self.tracker, serving, reports);
        self.running.insert(serial, session);
        if let Some(old) = replaces.and_then(|old| self.running.get(&old)) {
            info!(server = %way, id, "in place of an older tunnel");
            old.retire();
        }
    }

    fn duplicate(&mut self, way: &Way, purpose: &Purpose, id: &str, now: Instant) {
        if self.plan.duplicate(way, purpose, id, now) {
            info!(server = %way, id, "this is a server to which there is a tunnel already");
        } else {
            debug!(server = %way, id, "a server to which there is a tunnel already");
        }
    }
}

/// The next number of Leases. Cancel safe.
async fn changed(leases: &mut Option<watch::Receiver<Option<u32>>>) -> Option<u32> {
    if let Some(counter) = leases {
        if counter.changed().await.is_ok() {
            return *counter.borrow_and_update();
        }
        // Nobody counts any more; the last count stays.
        *leases = None;
    }
    std::future::pending().await
}

async fn until(wake: Option<Instant>) {
    match wake {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
