//! One record per client connection: its log line, counters and gauge. Lines of failed dials are
//! warnings, and seldom.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use tunnel::relay::{Ending, Moved};
use tunnel::transport::Link;
use tunnel_program::warn_seldom;

use super::Frontend;
use crate::agents::AgentTunnel;
use crate::clients::Client;
use crate::dial::Dialed;
use crate::dial::error::{DialError, GivenUp};
use crate::metrics::{ClientKind, GaugeGuard, Lifetime, TwinGuard};

/// The agent that was asked last.
#[derive(Debug)]
enum Asked {
    Nobody,
    /// The id of an agent that failed.
    Failed(Box<str>),
    Connected(Arc<AgentTunnel>),
}

impl Asked {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Nobody => None,
            Self::Failed(agent) => Some(agent),
            Self::Connected(agent) => Some(&agent.id),
        }
    }
}

/// A time since the client's request, at most 71 minutes, in a quarter of a `Duration`'s size.
#[derive(Debug, Clone, Copy)]
struct Microseconds(u32);

impl Microseconds {
    fn since(start: Instant) -> Self {
        Self(u32::try_from(start.elapsed().as_micros()).unwrap_or(u32::MAX))
    }

    fn time(self) -> Duration {
        Duration::from_micros(self.0.into())
    }
}

/// The end of a dial or a connection.
#[derive(Debug)]
enum Conclusion {
    /// The error of a dial.
    Failed(String),
    Ended(Ending),
}

/// The facts about one connection. Dropped, it counts and logs them, also when the connection's
/// task was cancelled.
#[derive(Debug)]
pub(super) struct Record {
    /// The connection's number, also in the agent's log.
    pub(super) id: u64,
    /// Bytes relayed so far.
    pub(super) moved: Moved,
    pub(super) kind: ClientKind,
    pub(super) client: Arc<Client>,
    target: Box<str>,
    agent: Asked,
    link: Option<Link>,
    started: Instant,
    /// The duration of the dial.
    dial: Option<Microseconds>,
    /// The time of the answer to the client.
    established: Option<(Microseconds, GaugeGuard)>,
    outcome: &'static str,
    /// Boxed, because idle connections have none.
    conclusion: Option<Box<Conclusion>>,
    pub(super) server: Arc<Frontend>,
    _connection: TwinGuard,
}

impl Record {
    /// The record of a connection that a client has requested.
    pub(super) fn new(
        server: &Arc<Frontend>,
        kind: ClientKind,
        client: Arc<Client>,
        id: u64,
        target: String,
    ) -> Self {
        Self {
            id,
            moved: Moved::default(),
            kind,
            client,
            target: target.into(),
            agent: Asked::Nobody,
            link: None,
            started: Instant::now(),
            dial: None,
            established: None,
            outcome: GivenUp::Cancelled.label(),
            conclusion: None,
            server: Arc::clone(server),
            _connection: server.metrics.connection(kind),
        }
    }

    /// Notes that an agent has connected.
    pub(super) fn dialed(&mut self, dialed: &Dialed) {
        self.agent = Asked::Connected(Arc::clone(&dialed.agent));
        self.link = Some(dialed.stream.stream.link());
        self.dial = Some(Microseconds::since(self.started));
    }

    /// Notes that the client was told of its connection.
    pub(super) fn established(&mut self) {
        self.outcome = "connected";
        let now = Microseconds::since(self.started);
        self.established = Some((now, self.server.metrics.established()));
    }

    pub(super) fn failed(&mut self, error: &DialError) {
        self.outcome = error.label();
        self.agent = error.agent().map_or(Asked::Nobody, |agent| Asked::Failed(agent.into()));
        self.conclusion = Some(Box::new(Conclusion::Failed(error.to_string())));
    }

    /// Notes that there will be no connection, without an agent's failure.
    pub(super) fn given_up(&mut self, why: GivenUp) {
        self.outcome = why.label();
        self.server.metrics.dial_given_up(why);
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        self.conclusion = Some(Box::new(Conclusion::Ended(ending)));
    }
}

impl Record {
    /// Tells of a dial that failed.
    fn warn(&self, lasted: Duration, error: &str) {
        warn_seldom!(
            ("dial", self.outcome),
            id = self.id,
            frontend = self.kind.label(),
            client = self.client.listener,
            identity = self.client.name(),
            target = &*self.target,
            agent = self.agent.name(),
            duration_ms = lasted.as_millis(),
            ended = self.outcome,
            error,
            "dial failed"
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let metrics = &self.server.metrics;
        metrics.dial_ended(self.kind, self.outcome);
        let lasted = self.started.elapsed();
        let mut ended = self.outcome;
        let (ending, error): (_, Option<&dyn Display>) = match self.conclusion.as_deref() {
            None => (None, None),
            Some(Conclusion::Failed(error)) => return self.warn(lasted, error),
            Some(Conclusion::Ended(ending)) => (Some(ending), ending.broken().map(|why| why as _)),
        };
        if let (Some((since, _)), Some(link)) = (&self.established, self.link) {
            let lasted = Lifetime { asked: lasted, established: lasted.saturating_sub(since.time()) };
            metrics.closed(self.kind, link, ending, &lasted);
            ended = ending.map_or("killed", Ending::label);
        }
        if let Some(why) = ending.and_then(Ending::broken).filter(|why| why.is_fault()) {
            let (frontend, target) = (self.kind.label(), &*self.target);
            warn_seldom!(("connection", why.label()), id = self.id, frontend, target, ended, error = %why,
                "connection failed");
        }
        info!(
            target: "access",
            id = self.id,
            frontend = self.kind.label(),
            client = self.client.listener,
            identity = self.client.name(),
            target = &*self.target,
            agent = self.agent.name(),
            link = self.link.map(Link::label),
            dial_ms = self.dial.map(|dial| dial.time().as_millis()),
            bytes_up = self.moved.up,
            bytes_down = self.moved.down,
            duration_ms = lasted.as_millis(),
            ended,
            error = error.map(ToString::to_string),
        );
    }
}
