//! The orderly end of a program: no new work, finish the old, then close.
//!
//! Every task is spawned here: each has a name, and the drain knows when the
//! last one has ended. A panic ends one task, never the program.

use std::future::Future;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug_span, trace};

/// Time between the kill signal and giving up on tasks that ignore it.
const AFTER_KILL: Duration = Duration::from_secs(2);

/// Two signals and a head count. Clones are the same drain.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    killed: CancellationToken,
    /// Connections: what a drain waits for.
    connections: TaskTracker,
    /// Everything else: accept loops, drivers, sessions.
    services: TaskTracker,
}

/// How a drain went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that had to be cut.
    pub cut: usize,
}

impl Drain {
    /// A drain that has not started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that serves one connection. The drain waits for it; it
    /// should watch [`Drain::killed`].
    pub fn spawn_connection(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        trace!(what, "task starts");
        // Without a span of its own: there are many, and each would keep it.
        spawn(self.connections.track_future(task));
    }

    /// Spawns any other task. It ends by itself on [`Drain::killed`] at the latest.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        spawn(self.services.track_future(task.instrument(debug_span!("task", what)))).abort_handle()
    }

    /// Ready when the drain begins: accept nothing new.
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    /// Whether the drain has begun.
    pub fn has_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Ready when the time is up: cut what is left.
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

    /// Waits until all connections are done, at most for `grace` or until
    /// somebody kills; cuts the rest. Services are left running: they carry the
    /// connections' last bytes. End with [`Drain::finish`].
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

    /// Ends everything and waits, at most two seconds, for the tasks to go.
    pub async fn finish(&self) {
        self.kill();
        self.connections.close();
        self.services.close();
        let all = async {
            self.connections.wait().await;
            self.services.wait().await;
        };
        // Tasks that ignore the kill end with the runtime.
        let _ = tokio::time::timeout(AFTER_KILL, all).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(task)
}
