//! Whether the watched processes have closed the files of connections that are gone.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::bench::Bench;
use crate::process::Process;

/// Longest wait: a server may keep a connection for some time-outs, but one that keeps it longer leaks.
const LIMIT: Duration = Duration::from_secs(30);

/// Time between two looks; it is the resolution of `time until gone`.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The wait where no process can be watched: long enough for processes that close at once.
const UNWATCHED: Duration = Duration::from_secs(1);

/// Open files of the watched processes while nothing goes on. A connection costs each of them at least one.
#[derive(Debug)]
pub(crate) struct Settled {
    open: Vec<(Process, usize)>,
}

impl Settled {
    /// Counts the files that are open now.
    pub(crate) fn now(bench: &Bench) -> Self {
        let others = bench.watched.iter().filter(|process| **process != Process::myself());
        // Processes of other users cannot be looked at.
        let open = others.filter_map(|process| Some((process.clone(), process.open_files().ok()?)));
        Self { open: open.collect() }
    }

    /// Waits until no process has more files open than before.
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
