//! The parts of a cluster: servers and agents, each with its own drain.

mod agent;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use tunnel::drain::Drain;

pub use self::agent::{Agent, AgentSpec};
pub use self::server::{Server, ServerSpec};
use crate::task::{Task, spawn};
use crate::wait::wait_within;

/// Flags by name; a later value replaces an earlier one.
type Flags = BTreeMap<String, String>;

/// The command line of these defaults and of a spec's flags, which replace them.
fn command_line<const N: usize>(program: &str, defaults: [(&str, String); N], flags: &Flags) -> Vec<String> {
    let mut all = Flags::from(defaults.map(|(name, value)| (name.to_owned(), value)));
    all.extend(flags.clone());
    let all = all.iter().map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(program.to_owned()).chain(all).collect()
}

/// A running program.
#[derive(Debug)]
struct Running {
    /// The program's own drain; killing it cuts all connections.
    program: Drain,
    /// Starts the drain, as SIGTERM does.
    signal: Drain,
    task: Task,
}

impl Running {
    fn start<R>(program: Drain, run: impl FnOnce(Stop) -> R) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let signal = Drain::new();
        let task = spawn(run(Stop { program: program.clone(), signal: signal.clone() }));
        Self { program, signal, task }
    }

    async fn kill(&self, who: &str) {
        self.program.kill();
        self.ended(Duration::from_secs(10), who).await;
    }

    async fn ended(&self, limit: Duration, who: &str) {
        wait_within(limit, &format!("the end of {who}"), async || match self.task.is_finished() {
            true => Ok(()),
            false => Err(format!("{} connections", self.program.connections())),
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.program.kill();
    }
}

struct Stop {
    program: Drain,
    signal: Drain,
}

impl Stop {
    async fn wait(self) -> std::io::Result<()> {
        tokio::select! {
            () = self.program.killed() => {}
            () = self.signal.started() => {}
        }
        Ok(())
    }
}
