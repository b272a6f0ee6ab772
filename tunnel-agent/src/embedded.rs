//! An agent inside another program, without listeners of its own: for programs
//! that are thousands of agents at once, and for whatever wants to answer dials
//! itself.
//!
//! It keeps its tunnels as the agent's own program does, with the same waits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tunnel::drain::Drain;

use crate::config::Config;
use crate::fleet::{Fleet, Servers, Sources};
use crate::metrics::Metrics;

pub use crate::fleet::Means;
pub use crate::serve::Answer;

/// How long tunnels may take to close once nothing is left on them.
const TUNNELS_CLOSE: Duration = Duration::from_secs(2);

/// An agent that runs until it leaves, or is dropped.
#[derive(Debug)]
pub struct Embedded {
    fleet: Fleet,
    servers: watch::Receiver<Servers>,
    drain: Drain,
}

impl Embedded {
    /// Begins to keep tunnels; needs a runtime. Agents may share metrics, whose
    /// counters then count for all of them.
    pub fn start(config: &Arc<Config>, metrics: &Metrics, means: Means) -> Self {
        let drain = Drain::new();
        let fleet = Fleet::start(config, metrics, &drain, Sources { means, ..Sources::default() });
        Self { servers: fleet.servers(), fleet, drain }
    }

    /// To how many servers there is a tunnel.
    pub fn connected(&self) -> usize {
        self.servers.borrow().connected
    }

    /// Waits until the servers to which there are tunnels, or those wanted, have
    /// changed, and says to how many there are. Cancel safe.
    pub async fn changed(&mut self) -> usize {
        if self.servers.changed().await.is_err() {
            // The agent is over; nothing changes any more.
            std::future::pending::<()>().await;
        }
        self.servers.borrow_and_update().connected
    }

    /// Leaves as a program does that is told to end: asks the servers for no more
    /// work, lets connections end within `grace`, closes the tunnels. Cancel
    /// safe: dropping it cuts what is left.
    pub async fn leave(self, grace: Duration) {
        let drained = self.drain.run(grace).await;
        if drained.cut == 0 {
            let _ = tokio::time::timeout(TUNNELS_CLOSE, self.fleet.all_ended()).await;
        }
        self.drain.finish().await;
    }
}

impl Drop for Embedded {
    /// Cuts everything at once.
    fn drop(&mut self) {
        self.drain.kill();
    }
}
