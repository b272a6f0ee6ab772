//! The bench: a frontend to dial, a target to dial to, the processes to watch, and the plan. Every scenario
//! is given one.

use std::sync::Arc;

use tunnel_client::{Connection, Protocol, dial};

use crate::dialing::{self, with_echo};
use crate::frontend::Frontend;
use crate::output::Progress;
use crate::plan::Plan;
use crate::process::Process;
use crate::target::Addresses;
use crate::target::command::Command;

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
            label: frontend.name.to_owned(),
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

    pub(crate) fn progress(&self, text: &str) {
        self.progress.show(&format!("{}: {text}", self.label));
    }

    pub(crate) fn clear_progress(&self) {
        self.progress.clear();
    }

    /// Whether a client can close its sending half alone.
    pub(crate) fn has_half_close(&self) -> bool {
        self.frontend.protocol == Protocol::Connect
    }

    /// Dials the target and sends it a command, with `more` right behind.
    pub(crate) async fn command(&self, command: Command, more: &[u8]) -> anyhow::Result<Connection> {
        let mut connection = self.open().await?;
        dialing::send(&mut connection, command, more).await?;
        Ok(connection)
    }

    /// Dials the target, which then waits for a command.
    pub(crate) async fn open(&self) -> anyhow::Result<Connection> {
        self.dial(&self.commands).await
    }

    /// The address where the target waits for commands, as the agent reaches it.
    pub(crate) fn target(&self) -> &str {
        &self.commands
    }

    /// Dials the target's address that speaks first.
    pub(crate) async fn banner(&self) -> anyhow::Result<Connection> {
        self.dial(&self.banner).await
    }

    /// Opens connections to `target`, each of which has echoed a byte.
    pub(crate) async fn open_echoing(
        self: &Arc<Self>,
        target: &str,
        count: u32,
    ) -> anyhow::Result<Vec<Connection>> {
        dialing::open(count as usize, || {
            let (bench, target) = (Arc::clone(self), target.to_owned());
            async move { with_echo(bench.dial(&target).await?).await }
        })
        .await
    }

    async fn dial(&self, target: &str) -> anyhow::Result<Connection> {
        let Frontend { protocol, endpoint, options, .. } = &self.frontend;
        Ok(dial(*protocol, endpoint, target, options).await?)
    }
}
