//! What every scenario is given: a frontend to dial, a target to dial to, the
//! processes to watch, and the plan.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::cli::Plan;
use crate::command::Command;
use crate::figures::Outcome;
use crate::output::Progress;
use crate::process::Process;
use crate::scenario::Scenario;
use crate::target::Addresses;

/// How long anything that should be quick may take before it counts as stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(10);

/// A frontend, and its name in the figures.
#[derive(Debug, Clone)]
pub(crate) struct Frontend {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: Endpoint,
    pub(crate) options: Options,
    /// The flags that lead another process of this program to it.
    pub(crate) flags: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) frontend: Frontend,
    pub(crate) plan: Plan,
    /// The processes to watch, this one last.
    pub(crate) watched: Vec<Process>,
    progress: Progress,
    label: String,
    commands: String,
    banner: String,
}

impl Bench {
    pub(crate) fn new(frontend: Frontend, target: Addresses, mut watched: Vec<Process>, plan: Plan) -> Self {
        watched.push(Process::myself());
        Self {
            label: frontend.name.clone(),
            frontend,
            plan,
            watched,
            progress: Progress::new(),
            commands: target.commands.to_string(),
            banner: target.banner.to_string(),
        }
    }

    /// Names this bench in progress lines.
    pub(crate) fn labelled(mut self, label: &str) -> Self {
        label.clone_into(&mut self.label);
        self
    }

    /// Runs a scenario. One that could not be run to its end is a failed check
    /// as well: what the others found is still worth having.
    pub(crate) async fn run(self: &Arc<Self>, scenario: Scenario) -> Outcome {
        let outcome = Box::pin(scenario.run(self)).await;
        self.progress.clear();
        outcome.unwrap_or_else(|error| {
            let mut outcome = Outcome::default();
            outcome.fail(format!("{error:#}"));
            outcome
        })
    }

    pub(crate) fn progress(&self, text: &str) {
        self.progress.show(&format!("{}: {text}", self.label));
    }

    /// Whether the sending half can be closed alone.
    pub(crate) fn has_half_close(&self) -> bool {
        self.frontend.protocol == Protocol::Connect
    }

    /// Dials the target and sends it a command, with `more` right behind.
    pub(crate) async fn command(&self, command: Command, more: &[u8]) -> anyhow::Result<Connection> {
        self.command_at(&self.commands, command, more).await
    }

    /// As [`Self::command`], to another target.
    pub(crate) async fn command_at(
        &self,
        target: &str,
        command: Command,
        more: &[u8],
    ) -> anyhow::Result<Connection> {
        let mut connection = self.dial(target).await?;
        let line = [command.line().as_bytes(), more].concat();
        within("room for a command", connection.write_all(&line)).await??;
        Ok(connection)
    }

    /// Dials the target, which then waits for a command.
    pub(crate) async fn open(&self) -> anyhow::Result<Connection> {
        self.dial(&self.commands).await
    }

    /// Where the target waits for commands, as the agent reaches it.
    pub(crate) fn target(&self) -> &str {
        &self.commands
    }

    /// Dials the target that speaks first.
    pub(crate) async fn banner(&self) -> anyhow::Result<Connection> {
        self.dial(&self.banner).await
    }

    async fn dial(&self, target: &str) -> anyhow::Result<Connection> {
        let Frontend { protocol, endpoint, options, .. } = &self.frontend;
        Ok(dial(*protocol, endpoint, target, options).await?)
    }
}

/// Waits for something that should be quick.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> anyhow::Result<F::Output> {
    timeout(STUCK, future).await.with_context(|| format!("no {what} in {STUCK:?}"))
}
