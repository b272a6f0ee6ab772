//! The orderly end of a program: no new work, finish the old, then close.
//!
//! Every task is spawned here, under a name, so the drain knows when the last one has ended.
//! A panic ends one task, never the program.

use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug_span, trace};

/// Time for tasks to end after the kill. Less cuts tasks that send their last bytes; more
/// delays the exit of the program.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// The signals to drain and to kill, and the tasks. Clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    killed: CancellationToken,
    /// Connections, for which a drain waits.
    connections: TaskTracker,
    /// All other tasks: accept loops, drivers, sessions.
    services: TaskTracker,
}

/// The outcome of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Number of connections cut.
    pub cut: usize,
}

impl Drain {
    /// A drain that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that serves one connection. The drain waits for it; the task has to end on
    /// [`Drain::killed`].
    pub fn spawn_connection(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        trace!(what, "task starts");
        // Without a span: each of many connections would hold one.
        spawn(self.connections.track_future(task));
    }

    /// Spawns any other task, which has to end on [`Drain::killed`].
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        spawn(self.services.track_future(task.instrument(debug_span!("task", what)))).abort_handle()
    }

    /// Waits until the drain begins: accept nothing new. Cancel safe.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    /// Whether the drain has begun.
    pub fn has_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Waits for the kill: cut the remaining work. Cancel safe.
    pub async fn killed(&self) {
        self.killed.cancelled().await;
    }

    /// Begins the drain.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Cuts everything at once.
    pub fn kill(&self) {
        self.started.cancel();
        self.killed.cancel();
    }

    /// Connections being served.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Begins the drain and waits until all connections are done, for at most `grace` or until
    /// the kill. Services go on, since they carry the connections' last bytes. End with
    /// [`Drain::finish`]. Cancel safe.
    pub async fn run(&self, grace: Duration) -> Drained {
        self.start();
        self.connections.close();
        tokio::select! {
            () = self.connections.wait() => {}
            () = tokio::time::sleep(grace) => {}
            () = self.killed() => {}
        }
        Drained { cut: self.connections.len() }
    }

    /// Kills, and waits for all tasks to end, for at most two seconds. Cancel safe.
    pub async fn finish(&self) {
        self.kill();
        self.connections.close();
        self.services.close();
        let all = async {
            self.connections.wait().await;
            self.services.wait().await;
        };
        // Other tasks end with the runtime.
        let _ = tokio::time::timeout(AFTER_KILL, all).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}
