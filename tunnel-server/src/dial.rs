//! A dial from the server's side: pick an agent, open a stream, ask, wait.
//!
//! All that can go wrong is decided here, once, as a [`DialError`]; frontends
//! only say it in their protocol.

pub mod error;
mod probe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tunnel::stream::Stream;
use tunnel::streams::StreamGuard;
use tunnel::transport::{DialFailure, Reached, Tunnel};
use tunnel_proto::message::Dial;
use tunnel_proto::target::Target;

use crate::agents::{AgentTunnel, Registry};
use crate::metrics::{DialTimes, GaugeGuard, Metrics};
use crate::route::Router;
use error::DialError;
pub use probe::Probed;

/// How long a dial waits for an agent that reads nothing where another could be
/// asked. Longer than a lost packet takes to be sent again.
const UNTAKEN: Duration = Duration::from_secs(2);

/// A connection that an agent has made.
#[derive(Debug)]
pub struct Dialed {
    /// Its bytes.
    pub stream: CountedStream,
    /// The agent that made it.
    pub agent: Arc<AgentTunnel>,
}

/// A stream that counts as open while it lives. Every idle connection keeps one.
#[derive(Debug)]
pub struct CountedStream {
    /// The stream.
    pub stream: Stream,
    _count: StreamGuard,
    _streams: GaugeGuard,
}

/// A stream whose agent has connected.
struct Answered {
    stream: Stream,
    opened: Instant,
    streams: GaugeGuard,
    far: Far,
}

/// A dial that succeeded, and all that is known of it.
struct Outcome {
    dialed: Dialed,
    times: DialTimes,
    /// How long it took to choose the agent, if that was asked.
    route: Option<Duration>,
    far: Far,
}

/// The agent's words about its own connect.
struct Far {
    address: String,
    connect: Option<Duration>,
}

/// Makes dials. Clones are the same dialer.
#[derive(Debug, Clone)]
pub struct Dialer {
    registry: Registry,
    router: Arc<Router>,
    metrics: Metrics,
    limit: Duration,
    next_id: Arc<AtomicU64>,
}

impl Dialer {
    /// A dialer whose dials take at most `limit`.
    pub fn new(registry: Registry, router: Arc<Router>, metrics: Metrics, limit: Duration) -> Self {
        Self { registry, router, metrics, limit, next_id: Arc::new(AtomicU64::new(1)) }
    }

    /// A number for a new connection, never 0, unique in this process.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks an agent to connect to `target`; if that fails before anything
    /// reached the target, asks one other. Cancel safe: dropping it cancels the
    /// dial at the agent.
    ///
    /// # Errors
    /// With what the person at `kubectl` should know.
    pub async fn dial(&self, id: u64, target: &Target) -> Result<Dialed, DialError> {
        Ok(self.counted(id, target, false).await?.dialed)
    }

    /// A dial that metrics count. With `measure`, also with what only a probe wants to know.
    async fn counted(&self, id: u64, target: &Target, measure: bool) -> Result<Outcome, DialError> {
        let _pending = self.metrics.pending_dial();
        let began = Instant::now();
        match self.dial_within(id, target, began + self.limit, measure).await {
            Ok(outcome) => {
                let times = DialTimes { total: began.elapsed(), ..outcome.times };
                self.metrics.dialed(outcome.dialed.stream.stream.link(), &times);
                Ok(Outcome { times, ..outcome })
            }
            Err(error) => {
                self.metrics.dial_failed(&error);
                Err(error)
            }
        }
    }

    async fn dial_within(
        &self,
        id: u64,
        target: &Target,
        deadline: Instant,
        measure: bool,
    ) -> Result<Outcome, DialError> {
        let began = Instant::now();
        let mut asking = Asking { id, target, began, deadline, untaken: None, routed: None, measure };
        let first = self.pick(target, None)?;
        asking.routed = measure.then(Instant::now);
        asking.untaken = self.untaken(&first, target);
        let error = match self.ask(Arc::clone(&first), &asking).await {
            Err(error) if error.is_worth_another_agent() => error,
            result => return result,
        };
        let mut second_try = Asking { began: Instant::now(), untaken: None, ..asking };
        let Ok(second) = self.pick(target, Some(&first)) else { return Err(error) };
        second_try.routed = measure.then(Instant::now);
        self.metrics.dial_retried(&error);
        self.ask(second, &second_try).await
    }

    /// How long an agent may leave a dial unread, where another agent could take it.
    fn untaken(&self, agent: &Arc<AgentTunnel>, target: &Target) -> Option<Duration> {
        let shares = agent.tunnel().is_some_and(Tunnel::shares_a_stream);
        let others = || self.router.pick(&self.registry.view(), target, Some(agent)).is_some();
        (shares && others()).then_some(UNTAKEN)
    }

    fn pick(&self, target: &Target, not: Option<&Arc<AgentTunnel>>) -> Result<Arc<AgentTunnel>, DialError> {
        let view = self.registry.view();
        self.router.pick(&view, target, not).ok_or_else(|| {
            if view.agents().is_empty() { self.no_agent(target) } else { self.none_serves(target) }
        })
    }

    fn no_agent(&self, target: &Target) -> DialError {
        match self.hint(target) {
            hint if hint.is_empty() => {
                DialError::NoAgent { hint: self.registry.last_departed().map_or_else(String::new, last_seen) }
            }
            hint => DialError::NoneServes {
                host: target.host().to_string(),
                hint: format!("{hint}; No agent available"),
            },
        }
    }

    fn none_serves(&self, target: &Target) -> DialError {
        DialError::NoneServes { host: target.host().to_string(), hint: self.hint(target) }
    }

    fn hint(&self, target: &Target) -> String {
        self.registry.departed(target.host()).map_or_else(String::new, last_seen)
    }

    async fn ask(&self, agent: Arc<AgentTunnel>, asking: &Asking<'_>) -> Result<Outcome, DialError> {
        let count = agent.count_stream();
        // Boxed: it is large, and the connection's task, which it is part of, lives on.
        let mut exchange = Box::pin(self.exchange(&agent, asking));
        let asked = timeout_at(asking.deadline, async {
            tokio::select! {
                biased;
                answered = &mut exchange => answered,
                // Whether the dial has reached a silent agent cannot be known. It is
                // cancelled there as soon as the agent hears of that.
                () = agent.suspected() => Err(asking.lost(&agent, "no sign of life".to_owned())),
            }
        });
        let asked = asked.await;
        drop(exchange);
        let answered = asked.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                agent: agent.id.clone(),
                target: asking.target.to_string(),
                seconds: self.limit.as_secs(),
            })
        })?;
        let Answered { stream, opened, streams, far } = answered;
        let times = DialTimes {
            open: opened - asking.began,
            answer: opened.elapsed(),
            total: asking.began.elapsed(),
        };
        let stream = CountedStream { stream, _count: count, _streams: streams };
        let route = asking.routed.map(|routed| routed - asking.began);
        Ok(Outcome { dialed: Dialed { stream, agent }, times, route, far })
    }

    async fn exchange(&self, agent: &AgentTunnel, asking: &Asking<'_>) -> Result<Answered, DialError> {
        let tunnel = agent.tunnel().ok_or_else(|| asking.lost(agent, "no tunnel".to_owned()))?;
        let timeout = asking.deadline.saturating_duration_since(Instant::now());
        let (target, measure) = (asking.target.clone(), asking.measure);
        let dial = Dial { target, timeout, connection_id: asking.id, measure };
        let mut open = None;
        let opened = || open = Some((Instant::now(), self.metrics.stream(tunnel.link())));
        let dialled = tunnel.dial(&dial, asking.untaken, opened).await;
        let agent_id = || agent.id.clone();
        match (dialled, open) {
            (Ok(Reached { stream, address, connect }), Some((opened, streams))) => {
                Ok(Answered { stream, opened, streams, far: Far { address, connect } })
            }
            // Never: a stream is open before it is answered.
            (Ok(_), None) => Err(asking.lost(agent, "no stream".to_owned())),
            (Err(DialFailure::Refused(refusal)), _) => Err(DialError::Refused { agent: agent_id(), refusal }),
            (Err(DialFailure::BadAnswer(why)), _) => Err(DialError::BadAnswer { agent: agent_id(), why }),
            (Err(DialFailure::Busy), _) => Err(DialError::AgentBusy { agent: agent_id() }),
            (Err(DialFailure::Broken(why)), _) => Err(asking.lost(agent, why)),
            (Err(error @ DialFailure::Lost(_)), _) => {
                self.registry.lost(agent);
                Err(asking.lost(agent, error.to_string()))
            }
        }
    }
}

/// One try of a dial.
struct Asking<'a> {
    id: u64,
    target: &'a Target,
    began: Instant,
    deadline: Instant,
    /// How long an agent may leave the dial unread.
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
        DialError::AgentLost { agent: agent.id.clone(), target: self.target.to_string(), why }
    }
}

fn last_seen((agent, at): (String, Instant)) -> String {
    format!(": agent {agent} last seen {}s ago", at.elapsed().as_secs())
}
