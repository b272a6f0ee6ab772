//! A dial from the server's side: pick an agent, open a stream, ask, wait.
//!
//! All that can go wrong is decided here, once, as a [`DialError`]; frontends
//! only say it in their protocol.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tunnel::control::Messages;
use tunnel::duplex::Broken;
use tunnel::packets;
use tunnel::stream::Stream;
use tunnel::transport::{Link, OpenError, Tunnel, konnectivity};
use tunnel_proto::message::{Dial, DialReply, MAX_DIAL};
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::Target;

use crate::agents::{Agent, Registry, StreamCount};
use crate::metrics::{DialFailure, DialTimes, GaugeGuard, Metrics};
use crate::route::Router;

/// How long a dial waits for an agent that reads nothing where another could be
/// asked. Longer than a lost packet takes to be sent again.
const UNTAKEN: Duration = Duration::from_secs(2);

/// Why a client does not get its connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No agent is connected at all. Runbooks search for this text.
    #[error("No agent available{hint}")]
    NoAgent {
        /// Which agent was the last and when, if there was one.
        hint: String,
    },
    /// Agents are connected, but none for this target.
    #[error("no agent serves {host}{hint}")]
    NoneServes {
        /// The target's host.
        host: String,
        /// When one last did, if one did.
        hint: String,
    },
    /// The tunnel broke before the answer came.
    #[error("agent {agent} was lost while dialling {target}: {why}")]
    AgentLost {
        /// The agent's id.
        agent: String,
        /// What was dialled.
        target: String,
        /// What happened to the tunnel.
        why: String,
    },
    /// The agent is at its limit of streams, or reads nothing.
    #[error("agent {agent} takes no more dials")]
    AgentBusy {
        /// The agent's id.
        agent: String,
    },
    /// The agent answered "no". The text is Go's for the same failure, without
    /// the agent's name, which is in the log.
    #[error("{refusal}")]
    Refused {
        /// The agent's id.
        agent: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// The agent did not answer.
    #[error("agent {agent} did not answer the dial of {target} within {seconds}s: timeout")]
    Timeout {
        /// The agent's id.
        agent: String,
        /// What was dialled.
        target: String,
        /// The limit.
        seconds: u64,
    },
    /// The agent's answer made no sense.
    #[error("agent {agent} answered the dial with nonsense: {why}")]
    BadAnswer {
        /// The agent's id.
        agent: String,
        /// What is wrong with it.
        why: String,
    },
}

impl DialError {
    /// The agent that was asked last, if one was.
    pub fn agent(&self) -> Option<&str> {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => None,
            Self::AgentLost { agent, .. }
            | Self::AgentBusy { agent }
            | Self::Refused { agent, .. }
            | Self::Timeout { agent, .. }
            | Self::BadAnswer { agent, .. } => Some(agent),
        }
    }

    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => "no_agent",
            Self::AgentLost { .. } => "agent_lost",
            Self::AgentBusy { .. } => "agent_busy",
            Self::Refused { refusal, .. } => refusal.kind.label(),
            Self::Timeout { .. } => "timeout",
            Self::BadAnswer { .. } => "bad_answer",
        }
    }

    /// What Konnectivity would call it.
    const fn failure(&self) -> DialFailure {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => DialFailure::NoAgent,
            Self::AgentLost { .. } | Self::AgentBusy { .. } => DialFailure::BackendClose,
            Self::Refused { .. } => DialFailure::ErrorResponse,
            Self::Timeout { .. } => DialFailure::BackendDialTimeout,
            Self::BadAnswer { .. } => DialFailure::UnrecognizedResponse,
        }
    }

    /// Whether another agent may be asked: nothing reached the target.
    const fn is_worth_another_agent(&self) -> bool {
        match self {
            Self::AgentLost { .. } | Self::AgentBusy { .. } => true,
            Self::Refused { refusal, .. } => {
                matches!(refusal.kind, RefusalKind::Busy | RefusalKind::Draining)
            }
            Self::NoAgent { .. }
            | Self::NoneServes { .. }
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// A connection that an agent has made.
#[derive(Debug)]
pub struct Dialed {
    /// Its bytes.
    pub stream: Stream,
    /// The link it came over.
    pub link: Link,
    /// Counts the stream for as long as it lives.
    count: StreamCount,
    _streams: GaugeGuard,
}

impl Dialed {
    /// The agent that made it.
    pub fn agent(&self) -> &Arc<Agent> {
        self.count.agent()
    }
}

/// A stream whose agent has connected.
struct Answered {
    stream: Stream,
    link: Link,
    opened: Instant,
    streams: GaugeGuard,
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
        let _pending = self.metrics.pending_dial();
        let began = Instant::now();
        let result = self.dial_within(id, target, began + self.limit).await;
        match result {
            Ok((dialed, times)) => {
                self.metrics.dialed(dialed.link, &DialTimes { total: began.elapsed(), ..times });
                Ok(dialed)
            }
            Err(error) => {
                self.metrics.konnectivity.dial_failed(error.failure());
                Err(error)
            }
        }
    }

    async fn dial_within(
        &self,
        id: u64,
        target: &Target,
        deadline: Instant,
    ) -> Result<(Dialed, DialTimes), DialError> {
        let began = Instant::now();
        let first = self.pick(target, None)?;
        let patience = self.patience(&first, target);
        let error = match self.ask(&first, id, target, (began, deadline), patience).await {
            Err(error) if error.is_worth_another_agent() => error,
            result => return result,
        };
        let began = Instant::now();
        let Ok(second) = self.pick(target, Some(&first)) else { return Err(error) };
        self.metrics.dial_retried();
        self.metrics.konnectivity.dial_failed(error.failure());
        self.ask(&second, id, target, (began, deadline), None).await
    }

    /// How long an agent is waited for that takes no dial, where others could.
    fn patience(&self, agent: &Arc<Agent>, target: &Target) -> Option<Duration> {
        let shares = matches!(agent.tunnel(), Some(Tunnel::Konnectivity(_)));
        let others = || self.router.pick(&self.registry.view(), target, Some(agent)).is_some();
        (shares && others()).then_some(UNTAKEN)
    }

    fn pick(&self, target: &Target, not: Option<&Arc<Agent>>) -> Result<Arc<Agent>, DialError> {
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

    async fn ask(
        &self,
        agent: &Arc<Agent>,
        id: u64,
        target: &Target,
        (began, deadline): (Instant, Instant),
        patience: Option<Duration>,
    ) -> Result<(Dialed, DialTimes), DialError> {
        let count = agent.count_stream();
        // Whether a dial has reached a silent agent cannot be known, nor that of one
        // whose tunnel is over; dropped, it is cancelled there as soon as that hears of it.
        let silent = || DialError::AgentLost {
            agent: agent.id.clone(),
            target: target.to_string(),
            why: "no sign of life".to_owned(),
        };
        // Boxed: it is large, and the connection's task, which it is part of, lives on.
        let mut exchange = Box::pin(self.exchange(agent, id, target, deadline, patience));
        let asked = timeout_at(deadline, async {
            tokio::select! {
                biased;
                answered = &mut exchange => answered,
                () = agent.suspected() => Err(silent()),
            }
        });
        let asked = asked.await;
        drop(exchange);
        let answered = asked.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                agent: agent.id.clone(),
                target: target.to_string(),
                seconds: self.limit.as_secs(),
            })
        })?;
        let times = DialTimes {
            open: answered.opened - began,
            answer: answered.opened.elapsed(),
            total: began.elapsed(),
        };
        let Answered { stream, link, streams, .. } = answered;
        Ok((Dialed { stream, link, count, _streams: streams }, times))
    }

    async fn exchange(
        &self,
        agent: &Arc<Agent>,
        id: u64,
        target: &Target,
        deadline: Instant,
        patience: Option<Duration>,
    ) -> Result<Answered, DialError> {
        // What the session found out says more than what became of the stream.
        let lost = |why: String| DialError::AgentLost {
            agent: agent.id.clone(),
            target: target.to_string(),
            why: agent.why_ended().map_or(why, str::to_owned),
        };
        let bad = |why: String| DialError::BadAnswer { agent: agent.id.clone(), why };
        let tunnel = agent.tunnel().ok_or_else(|| lost("no tunnel".to_owned()))?;
        if let Tunnel::Konnectivity(link) = tunnel {
            return self.ask_by_packet(agent, link, target, patience).await;
        }
        let stream = tunnel.open().await.map_err(|error| match error {
            OpenError::Busy => DialError::AgentBusy { agent: agent.id.clone() },
            OpenError::Lost(_) | OpenError::WrongSide => {
                self.registry.lost(agent);
                lost(error.to_string())
            }
        })?;
        let (opened, streams) = (Instant::now(), self.metrics.stream(tunnel.link()));
        let mut messages = Messages::new(stream, MAX_DIAL);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let dial = Dial { target: target.clone(), timeout, connection_id: id };
        let broken = |error: Broken| match error {
            Broken::Stopped => DialError::AgentBusy { agent: agent.id.clone() },
            Broken::Protocol(why) => bad(why),
            Broken::Lost(_) => {
                self.registry.lost(agent);
                lost(error.to_string())
            }
            Broken::Reset | Broken::Overflow { .. } | Broken::Io(_) => lost(error.to_string()),
        };
        messages.send(dial.encode()).await.map_err(broken)?;
        let reply = messages.recv().await.map_err(broken)?;
        let reply = reply.ok_or_else(|| bad("the stream ended".to_owned()))?;
        match DialReply::decode(reply).map_err(|error| bad(error.to_string()))? {
            DialReply::Connected { .. } => {
                let stream = messages.into_stream();
                Ok(Answered { stream, link: tunnel.link(), opened, streams })
            }
            DialReply::Refused(refusal) => Err(DialError::Refused { agent: agent.id.clone(), refusal }),
        }
    }

    async fn ask_by_packet(
        &self,
        agent: &Arc<Agent>,
        link: &konnectivity::Tunnel,
        target: &Target,
        patience: Option<Duration>,
    ) -> Result<Answered, DialError> {
        let agent_id = || agent.id.clone();
        let (opened, streams) = (Instant::now(), self.metrics.stream(Link::Konnectivity));
        let answer = match patience {
            Some(patience) => link.dial_if_taken(target.to_string(), patience).await,
            None => link.dial(target.to_string()).await,
        };
        match answer {
            Ok(member) => Ok(Answered { stream: member.into(), link: Link::Konnectivity, opened, streams }),
            Err(packets::DialFailure::Refused(text)) => {
                Err(DialError::Refused { agent: agent_id(), refusal: Refusal::from_go(text) })
            }
            Err(packets::DialFailure::BadAnswer(why)) => Err(DialError::BadAnswer { agent: agent_id(), why }),
            Err(packets::DialFailure::Busy | packets::DialFailure::Untaken) => {
                Err(DialError::AgentBusy { agent: agent_id() })
            }
            Err(packets::DialFailure::Lost(why)) => {
                self.registry.lost(agent);
                Err(DialError::AgentLost { agent: agent_id(), target: target.to_string(), why })
            }
        }
    }
}

fn last_seen((agent, at): (String, Instant)) -> String {
    format!(": agent {agent} last seen {}s ago", at.elapsed().as_secs())
}
