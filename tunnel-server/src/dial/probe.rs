//! A dial whose stages are measured: the same as any other, but for the question to the
//! agent how long its own connect took.

use std::time::Duration;

use tunnel_proto::target::Target;

use super::error::DialError;
use super::{Dialed, Dialer, Far, Outcome};

/// A probe that reached its target.
#[derive(Debug)]
pub struct Probed {
    /// The connection.
    pub dialed: Dialed,
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
    pub fn explain(&self, agent_id: &str, target: &Target) -> Option<String> {
        let view = self.registry.view();
        let agent = view.agents().iter().find(|agent| agent.id == agent_id)?;
        Some(format!("{agent_id} ({})", self.router.why(agent, target)))
    }

    /// As [`Dialer::dial`], within `limit` or the dialer's own limit. Metrics count it as any
    /// other dial.
    ///
    /// # Errors
    /// As there.
    pub async fn probe(&self, target: &Target, limit: Duration) -> Result<Probed, DialError> {
        let dialer = Self { limit: self.limit.min(limit), ..self.clone() };
        let outcome = Box::pin(dialer.counted(dialer.next_id(), target, true)).await?;
        let Outcome { dialed, times, route, far: Far { address, connect } } = outcome;
        let route = route.unwrap_or_default();
        Ok(Probed {
            why: self.router.why(&dialed.agent, target),
            dialed,
            route,
            open: times.open.saturating_sub(route),
            answer: times.answer,
            connect,
            address: (!address.is_empty()).then_some(address),
        })
    }
}
