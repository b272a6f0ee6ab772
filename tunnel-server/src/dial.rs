//! A dial from the server's side: ask the policy, pick an agent, open a stream, ask, wait.
//!
//! Every failure becomes a [`DialError`] here; frontends translate it into their protocol.

pub mod error;
mod patience;
mod permit;
mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tunnel::stream::Stream;
use tunnel::streams::StreamGuard;
use tunnel::transport::{DialFailure, Reached, Tunnel};
use tunnel_policy::{Gate, Subject};
use tunnel_proto::message::Dial;
use tunnel_proto::target::Target;

use crate::agents::{AgentTunnel, LastSign, Registry, Trust};
use crate::metrics::{DialTimes, GaugeGuard, Metrics};
use crate::route::{Router, View};
use error::DialError;
pub use probe::Probed;

/// Time that an agent may leave a dial unread where another agent could take it. With less, the
/// retransmission of a lost packet moves dials; with more, clients wait for stuck agents.
const UNTAKEN: Duration = Duration::from_secs(2);

/// A connection that an agent has made.
#[derive(Debug)]
pub(crate) struct Dialed {
    pub(crate) stream: CountedStream,
    pub(crate) agent: Arc<AgentTunnel>,
    times: DialTimes,
    detail: Detail,
}

/// A stream that counts as open while it lives. Every idle connection keeps one.
#[derive(Debug)]
pub(crate) struct CountedStream {
    pub(crate) stream: Stream,
    _count: StreamGuard,
    _streams: GaugeGuard,
}

/// Facts about a dial beyond its connection, for probes.
#[derive(Debug)]
struct Detail {
    /// The address that the agent dialled; empty if the agent does not tell.
    address: String,
    /// Time of the agent's own lookup and connect, if measured.
    connect: Option<Duration>,
    /// Time of the choice of the agent, if measured.
    route: Option<Duration>,
}

/// Makes dials. Clones are the same dialer.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    registry: Registry,
    router: Arc<Router>,
    trust: Trust,
    policy: Arc<Gate>,
    metrics: Metrics,
    limit: Duration,
    next_id: Arc<AtomicU64>,
    /// Dials that may wait for an agent.
    waiters: Arc<Semaphore>,
    /// Origin of the times of their looks.
    began: Instant,
}

impl Dialer {
    /// A dialer whose dials take at most `limit`.
    pub(crate) fn new(
        registry: Registry,
        router: Arc<Router>,
        trust: Trust,
        policy: Arc<Gate>,
        metrics: Metrics,
        limit: Duration,
    ) -> Self {
        let (next_id, waiters) = (Arc::new(AtomicU64::new(1)), Arc::new(Semaphore::new(patience::WAITERS)));
        Self { registry, router, trust, policy, metrics, limit, next_id, waiters, began: Instant::now() }
    }

    /// The number of a new connection: never 0, and unique in this process.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks an agent to connect to `target`, and one other agent if the first fails before
    /// anything reached the target. An agent that has just left is waited for. `client` is the client to the policy. Cancel safe: a drop cancels
    /// the dial at the agent.
    ///
    /// # Errors
    /// With the text for the user of `kubectl`.
    pub(crate) async fn dial(
        &self,
        id: u64,
        target: &Target,
        client: Subject<'_>,
    ) -> Result<Dialed, DialError> {
        self.dial_measured(Wanted { id, target, client, measure: false }).await
    }

    /// As [`Self::dial`].
    async fn dial_measured(&self, wanted: Wanted<'_>) -> Result<Dialed, DialError> {
        let Wanted { id, target, client, measure } = wanted;
        let _pending = self.metrics.pending_dial();
        let now = Instant::now();
        let asking = Asking {
            id,
            target,
            started: now,
            began: now,
            deadline: now + self.limit,
            untaken: None,
            routed: None,
            measure,
        };
        let result = match self.permit(target, client) {
            Ok(()) => self.ask_up_to_two(asking).await,
            Err(denied) => Err(denied),
        };
        match &result {
            Ok(dialed) => self.metrics.dialed(dialed.stream.stream.link(), &dialed.times),
            Err(error) => self.metrics.dial_failed(error),
        }
        result
    }

    async fn ask_up_to_two(&self, mut asking: Asking<'_>) -> Result<Dialed, DialError> {
        let first = match self.pick(asking.target, None) {
            Ok(first) => first,
            Err(_) if self.has_just_left(asking.target) => {
                let found = self.successor(&asking, None).await;
                asking.began = Instant::now();
                // An error tells the time of the last sign of life anew.
                found.map_or_else(|| self.pick(asking.target, None), Ok)?
            }
            Err(error) => return Err(error),
        };
        asking.routed = asking.measure.then(Instant::now);
        asking.untaken = self.untaken(&first, asking.target);
        let error = match self.ask(&first, &asking).await {
            Err(error) if error.is_worth_another_agent() => error,
            result => return result,
        };
        let second = match self.pick(asking.target, Some(&first)) {
            Ok(second) => Some(second),
            Err(_) if first.is_leaving() || error.is_of_a_draining_agent() => {
                self.successor(&asking, Some(&first)).await
            }
            Err(_) => None,
        };
        let Some(second) = second else { return Err(error) };
        self.metrics.dial_retried(&error);
        let now = Instant::now();
        let second_try =
            Asking { began: now, untaken: None, routed: asking.measure.then_some(now), ..asking };
        self.ask(&second, &second_try).await
    }

    /// The limit of [`Asking::untaken`], if another agent could take the dial.
    fn untaken(&self, agent: &Arc<AgentTunnel>, target: &Target) -> Option<Duration> {
        let shares = agent.tunnel().is_some_and(Tunnel::shares_a_stream);
        let others = || self.pick_of(&self.registry.view(), target, Some(agent)).is_some();
        (shares && others()).then_some(UNTAKEN)
    }

    fn pick(&self, target: &Target, not: Option<&Arc<AgentTunnel>>) -> Result<Arc<AgentTunnel>, DialError> {
        let (picked, has_agents) = {
            let view = self.registry.view();
            (self.pick_of(&view, target, not), !view.agents().is_empty())
        };
        picked.ok_or_else(|| self.nobody(has_agents, target))
    }

    fn pick_of(
        &self,
        view: &View,
        target: &Target,
        not: Option<&Arc<AgentTunnel>>,
    ) -> Option<Arc<AgentTunnel>> {
        let picked = self.router.pick(view, target, not)?;
        self.trust.lets(&picked.routes(), target.host()).then_some(picked)
    }

    fn nobody(&self, has_agents: bool, target: &Target) -> DialError {
        let hint = self.registry.departed(target.host()).map_or_else(String::new, last_seen);
        let host = target.host().to_string();
        match (has_agents, hint.is_empty()) {
            (true, _) => DialError::NoneServes { host, hint },
            (false, false) => DialError::NoneServes { host, hint: format!("{hint}; No agent available") },
            (false, true) => {
                DialError::NoAgent { hint: self.registry.last_departed().map_or_else(String::new, last_seen) }
            }
        }
    }

    async fn ask(&self, agent: &Arc<AgentTunnel>, asking: &Asking<'_>) -> Result<Dialed, DialError> {
        // Boxed, because it is large and part of the connection's task, which lives on.
        let exchange = Box::pin(self.exchange(agent, asking));
        let asked = async {
            tokio::select! {
                biased;
                dialed = exchange => dialed,
                // The silent agent may have connected to the target, and keeps that connection
                // until it hears that the dial is cancelled. So no other agent is asked, and the
                // client need not wait for the deadline.
                () = agent.suspected() => Err(asking.silent(agent)),
            }
        };
        timeout_at(asking.deadline, asked).await.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                agent: agent.id.clone(),
                target: asking.target.to_string(),
                seconds: self.limit.as_secs(),
            })
        })
    }

    async fn exchange(&self, agent: &Arc<AgentTunnel>, asking: &Asking<'_>) -> Result<Dialed, DialError> {
        let count = agent.count_stream();
        let tunnel = agent.tunnel().ok_or_else(|| asking.lost(agent, "no tunnel".to_owned()))?;
        let timeout = asking.deadline.saturating_duration_since(Instant::now());
        let (target, measure) = (asking.target.clone(), asking.measure);
        let dial = Dial { target, timeout, connection_id: asking.id, measure };
        let mut open = None;
        let opened = || open = Some((Instant::now(), self.metrics.stream(tunnel.link())));
        let dialled = tunnel.dial(&dial, asking.untaken, opened).await;
        let failure = match (dialled, open) {
            (Ok(Reached { stream, address, connect }), Some((opened, streams))) => {
                let (open, answer) = (opened - asking.began, opened.elapsed());
                let times = DialTimes { open, answer, total: asking.started.elapsed() };
                let stream = CountedStream { stream, _count: count, _streams: streams };
                let detail = Detail { address, connect, route: asking.routed.map(|at| at - asking.began) };
                return Ok(Dialed { stream, agent: Arc::clone(agent), times, detail });
            }
            // Never: a stream is open before it is answered.
            (Ok(_), None) => DialFailure::Broken("no stream".to_owned()),
            (Err(failure), _) => failure,
        };
        Err(match failure {
            DialFailure::Refused(refusal) => DialError::Refused { agent: agent.id.clone(), refusal },
            DialFailure::BadAnswer(why) => DialError::BadAnswer { agent: agent.id.clone(), why },
            DialFailure::Busy => DialError::AgentBusy { agent: agent.id.clone() },
            DialFailure::Broken(why) => asking.lost(agent, why),
            DialFailure::Lost(_) => {
                self.registry.lost(agent);
                asking.lost(agent, failure.to_string())
            }
        })
    }
}

/// A dial that a client or a probe wants.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    id: u64,
    target: &'a Target,
    client: Subject<'a>,
    /// Whether stages are measured that ordinary dials do not need.
    measure: bool,
}

/// One try of a dial.
#[derive(Clone, Copy)]
struct Asking<'a> {
    id: u64,
    target: &'a Target,
    /// The begin of the dial.
    started: Instant,
    /// The begin of this try.
    began: Instant,
    deadline: Instant,
    /// Time that the agent may leave the dial unread.
    untaken: Option<Duration>,
    /// When the agent was chosen, if that is measured.
    routed: Option<Instant>,
    /// Whether stages are measured that ordinary dials do not need.
    measure: bool,
}

impl Asking<'_> {
    fn lost(&self, agent: &AgentTunnel, why: String) -> DialError {
        // The session's reason says more than the stream's.
        let why = agent.why_ended().map_or(why, str::to_owned);
        let (agent, target) = (agent.id.clone(), self.target.to_string());
        DialError::AgentLost { agent, target, why, silent: false }
    }

    fn silent(&self, agent: &AgentTunnel) -> DialError {
        let (agent, target) = (agent.id.clone(), self.target.to_string());
        DialError::AgentLost { agent, target, why: "no sign of life".to_owned(), silent: true }
    }
}

fn last_seen(LastSign { agent, at }: LastSign) -> String {
    format!(": agent {agent} last seen {}s ago", at.elapsed().as_secs())
}
