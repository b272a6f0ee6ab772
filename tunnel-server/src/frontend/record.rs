//! One record per client connection: the log line, the counters, the gauge.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;
use tunnel::relay::{Ending, Moved};
use tunnel::transport::Link;

use super::Frontend;
use crate::dial::{DialError, Dialed};
use crate::metrics::GaugeGuard;

/// What is known of one connection. Dropping it counts and logs, also when the
/// connection's task was cancelled.
#[derive(Debug)]
pub(super) struct Record {
    /// The connection's number, in the agent's log too.
    pub(super) id: u64,
    /// Bytes relayed so far.
    pub(super) moved: Moved,
    frontend: &'static str,
    listener: &'static str,
    target: String,
    agent: Option<(String, Link)>,
    started: Instant,
    dial: Option<Duration>,
    outcome: &'static str,
    error: Option<String>,
    ended: Option<&'static str>,
    server: Arc<Frontend>,
    _gauge: GaugeGuard,
}

impl Record {
    pub(super) fn new(
        server: &Arc<Frontend>,
        frontend: &'static str,
        listener: &'static str,
        id: u64,
        target: String,
    ) -> Self {
        Self {
            id,
            moved: Moved::default(),
            frontend,
            listener,
            target,
            agent: None,
            started: Instant::now(),
            dial: None,
            outcome: "cancelled",
            error: None,
            ended: None,
            server: Arc::clone(server),
            _gauge: GaugeGuard::new(server.metrics.connections.with_label_values(&[frontend])),
        }
    }

    pub(super) fn connected(&mut self, dialed: &Dialed) {
        self.agent = Some((dialed.agent.clone(), dialed.link));
        self.dial = Some(self.started.elapsed());
        self.outcome = "connected";
    }

    pub(super) fn failed(&mut self, error: &DialError) {
        self.outcome = error.label();
        self.error = Some(error.to_string());
    }

    /// The client went, or the server stopped, before the dial was answered.
    pub(super) fn given_up(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }

    pub(super) fn ended(&mut self, ending: &Ending) {
        self.ended = Some(ending.label());
        if let Ending::Broken { why, .. } = ending {
            self.error = Some(why.to_string());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.server.metrics.dials.with_label_values(&[self.frontend, self.outcome]).inc();
        let ended = match (self.dial, self.ended) {
            (None, _) => self.outcome,
            (Some(_), Some(how)) => how,
            (Some(_), None) => "killed",
        };
        if self.dial.is_some() {
            self.server.metrics.endings.with_label_values(&[self.frontend, ended]).inc();
            self.server.metrics.connection_seconds.observe(self.started.elapsed().as_secs_f64());
        }
        info!(
            target: "access",
            id = self.id,
            frontend = self.frontend,
            client = self.listener,
            target = self.target,
            agent = self.agent.as_ref().map(|(agent, _)| agent.as_str()),
            link = self.agent.as_ref().map(|(_, link)| link.label()),
            dial_ms = self.dial.map(|dial| dial.as_millis()),
            bytes_up = self.moved.up,
            bytes_down = self.moved.down,
            duration_ms = self.started.elapsed().as_millis(),
            ended,
            error = self.error,
        );
    }
}
