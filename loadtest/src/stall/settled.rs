//! Whether the processes under test have let go of connections that are gone.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::bench::Bench;
use crate::process::Process;

/// How long they may take.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is waited where no process can be watched.
const UNWATCHED: Duration = Duration::from_secs(1);

/// How many files the watched processes have open while nothing goes on. A
/// connection costs each of them one at least, whoever wrote them.
#[derive(Debug)]
pub(crate) struct Settled {
    open: Vec<(Process, usize)>,
}

impl Settled {
    /// As it is now.
    pub(crate) fn now(bench: &Bench) -> Self {
        let others = bench.watched.iter().filter(|process| **process != Process::myself());
        // Those of other users cannot be looked at.
        let open = others.filter_map(|process| Some((process.clone(), process.open_files().ok()?)));
        Self { open: open.collect() }
    }

    /// Waits until none has more open than it had.
    ///
    /// # Errors
    /// When that takes too long, or a process is gone.
    pub(super) async fn wait(&self) -> anyhow::Result<()> {
        if self.open.is_empty() {
            sleep(UNWATCHED).await;
        }
        let end = Instant::now() + LIMIT;
        for (process, before) in &self.open {
            loop {
                let open = process.open_files()?;
                if open <= *before {
                    break;
                }
                anyhow::ensure!(
                    Instant::now() < end,
                    "{} has {open} files open {LIMIT:?} after the stalled connections went, and had {before} \
                     before they came",
                    process.name
                );
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }
}
