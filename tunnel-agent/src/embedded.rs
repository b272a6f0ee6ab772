//! An agent without listeners inside another program, such as one that runs thousands of
//! agents or answers dials itself. It keeps its tunnels as the `tunnel-agent` program does.

use std::sync::Arc;
use std::time::Duration;

use tunnel::drain::Drain;

use crate::config::Config;
use crate::fleet::{Fleet, Sources};
use crate::metrics::Metrics;

pub use crate::fleet::Means;
pub use crate::serve::Answer;

/// A running agent. Dropping it cuts its connections and tunnels.
#[derive(Debug)]
pub struct Embedded {
    fleet: Fleet,
    drain: Drain,
}

impl Embedded {
    /// Starts to keep tunnels; needs a runtime. Agents with the same metrics are counted
    /// together.
    pub fn start(config: &Arc<Config>, metrics: &Metrics, means: Means) -> Self {
        let drain = Drain::new();
        let fleet = Fleet::start(config, metrics, &drain, Sources { means, ..Sources::default() });
        Self { fleet, drain }
    }

    /// The number of servers to which there is a tunnel.
    pub fn connected(&self) -> usize {
        self.fleet.servers.borrow().connected.len()
    }

    /// Waits for a change of the servers connected or wanted, and returns the number of
    /// those connected. Waits for ever once the agent has ended. Cancel safe.
    pub async fn changed(&mut self) -> usize {
        if self.fleet.servers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.fleet.servers.borrow_and_update().connected.len()
    }

    /// Drains: asks the servers for no more work, lets connections end within `grace`, and
    /// closes the tunnels. Cancel safe: a dropped call cuts the rest.
    pub async fn leave(self, grace: Duration) {
        self.fleet.drain(&self.drain, grace).await;
        self.drain.finish().await;
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.drain.kill();
    }
}
