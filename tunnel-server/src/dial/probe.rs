//! A dial whose stages are measured: the same as any other, but for the question to the
//! agent how long its own connect took.

use std::sync::Arc;
use std::time::Duration;

use tunnel_policy::Subject;
use tunnel_proto::target::Target;

use super::error::DialError;
use super::{CountedStream, Detail, Dialed, Dialer, Wanted};
use crate::agents::AgentTunnel;

/// A probe that reached its target.
#[derive(Debug)]
pub struct Probed {
    /// The connection.
    pub(crate) stream: CountedStream,
    /// The agent that made it.
    pub(crate) agent: Arc<AgentTunnel>,
    /// Why this agent.
    pub why: String,
    /// Choosing the agent.
    pub route: Duration,
    /// Opening the stream.
    pub open: Duration,
    /// From there to the agent's answer.
    pub answer: Duration,
    /// The agent's own lookup and connect, of `answer`; `None` from agents that do not tell.
    pub connect: Option<Duration>,
    /// The address that the agent dialled, if it tells.
    pub address: Option<String>,
}

impl Dialer {
    /// An agent by its id, and why a target is its.
    pub(crate) fn explain(&self, agent_id: &str, target: &Target) -> Option<String> {
        let view = self.registry.view();
        let agent = view.agents().iter().find(|agent| agent.id == agent_id)?;
        Some(format!("{agent_id} ({})", self.router.why(agent, target)))
    }

    /// As [`Dialer::dial`], within `limit` or the dialer's own limit. Metrics count it as any
    /// other dial.
    ///
    /// # Errors
    /// As there.
    pub(crate) async fn probe(&self, target: &Target, limit: Duration) -> Result<Probed, DialError> {
        let dialer = Self { limit: self.limit.min(limit), ..self.clone() };
        let wanted = Wanted { id: dialer.next_id(), target, client: Subject::default(), measure: true };
        let dialed = Box::pin(dialer.dial_measured(wanted)).await?;
        let why = self.router.why(&dialed.agent, target);
        let Dialed { stream, agent, times, detail: Detail { address, connect, route } } = dialed;
        let route = route.unwrap_or_default();
        Ok(Probed {
            stream,
            agent,
            why,
            route,
            open: times.open.saturating_sub(route),
            answer: times.answer,
            connect,
            address: (!address.is_empty()).then_some(address),
        })
    }
}
