//! One record per client connection: the log line, the counters, the gauge.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use tunnel::relay::{Ending, Moved};
use tunnel::transport::Link;

use super::Frontend;
use crate::agents::AgentTunnel;
use crate::dial::Dialed;
use crate::dial::error::{DialError, GivenUp};
use crate::metrics::{ClientKind, GaugeGuard, Lifetime, TwinGuard};

/// The agent that was asked last.
#[derive(Debug)]
enum Asked {
    Nobody,
    /// It could not connect, or was lost.
    Failed(Box<str>),
    /// It has connected.
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

/// A time after a connection was asked for: of at most an hour, in a quarter of the room
/// that a `Duration` takes.
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

/// What ended a dial or a connection. Boxed in a [`Record`], because most of those
/// there are have not come to it.
#[derive(Debug)]
enum Over {
    Failed(String),
    Ended(Ending),
}

impl Over {
    fn ending(&self) -> Option<&Ending> {
        match self {
            Self::Failed(_) => None,
            Self::Ended(ending) => Some(ending),
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::Failed(error) => Some(error.clone()),
            Self::Ended(ending) => ending.broken().map(ToString::to_string),
        }
    }
}

/// What is known of one connection. Dropping it counts and logs, also when the
/// connection's task was cancelled.
#[derive(Debug)]
pub(super) struct Record {
    /// The connection's number, in the agent's log too.
    pub(super) id: u64,
    /// Bytes relayed so far.
    pub(super) moved: Moved,
    pub(super) kind: ClientKind,
    listener: &'static str,
    target: Box<str>,
    agent: Asked,
    link: Option<Link>,
    started: Instant,
    /// How long the dial took.
    dial: Option<Microseconds>,
    /// When the client was told that it is connected.
    established: Option<(Microseconds, GaugeGuard)>,
    outcome: &'static str,
    over: Option<Box<Over>>,
    pub(super) server: Arc<Frontend>,
    _connection: TwinGuard,
}

impl Record {
    /// A connection that a client asked for.
    pub(super) fn new(
        server: &Arc<Frontend>,
        kind: ClientKind,
        listener: &'static str,
        id: u64,
        target: String,
    ) -> Self {
        Self {
            id,
            moved: Moved::default(),
            kind,
            listener,
            target: target.into(),
            agent: Asked::Nobody,
            link: None,
            started: Instant::now(),
            dial: None,
            established: None,
            outcome: GivenUp::Cancelled.label(),
            over: None,
            server: Arc::clone(server),
            _connection: server.metrics.connection(kind),
        }
    }

    /// An agent has connected; the client does not know it yet.
    pub(super) fn dialed(&mut self, dialed: &Dialed) {
        self.agent = Asked::Connected(Arc::clone(&dialed.agent));
        self.link = Some(dialed.stream.stream.link());
        self.dial = Some(Microseconds::since(self.started));
    }

    /// The client was told that it is connected.
    pub(super) fn established(&mut self) {
        self.outcome = "connected";
        let now = Microseconds::since(self.started);
        self.established = Some((now, self.server.metrics.established()));
    }

    pub(super) fn failed(&mut self, error: &DialError) {
        self.outcome = error.label();
        self.agent = error.agent().map_or(Asked::Nobody, |agent| Asked::Failed(agent.into()));
        self.over = Some(Box::new(Over::Failed(error.to_string())));
    }

    /// The connection came to nothing before it was established.
    pub(super) fn given_up(&mut self, why: GivenUp) {
        self.outcome = why.label();
        self.server.metrics.dial_given_up(why);
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        self.over = Some(Box::new(Over::Ended(ending)));
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let metrics = &self.server.metrics;
        metrics.dial_ended(self.kind, self.outcome);
        let lasted = self.started.elapsed();
        let mut ended = self.outcome;
        let ending = self.over.as_deref().and_then(Over::ending);
        if let (Some((since, _)), Some(link)) = (&self.established, self.link) {
            let lasted = Lifetime { asked: lasted, established: lasted.saturating_sub(since.time()) };
            metrics.closed(self.kind, link, ending, &lasted);
            ended = ending.map_or("killed", Ending::label);
        }
        info!(
            target: "access",
            id = self.id,
            frontend = self.kind.label(),
            client = self.listener,
            target = &*self.target,
            agent = self.agent.name(),
            link = self.link.map(Link::label),
            dial_ms = self.dial.map(|dial| dial.time().as_millis()),
            bytes_up = self.moved.up,
            bytes_down = self.moved.down,
            duration_ms = lasted.as_millis(),
            ended,
            error = self.over.as_deref().and_then(Over::error),
        );
    }
}
