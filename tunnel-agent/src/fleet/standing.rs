//! How many servers are connected and wanted: the one place where that is told
//! to metrics, readiness and greetings.

use tokio::sync::watch;

use crate::metrics::Metrics;

/// Servers, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Servers to which a tunnel stands.
    pub(crate) connected: usize,
    /// Servers to which a tunnel should stand.
    pub(crate) wanted: usize,
    /// Ids of those connected.
    pub(crate) ids: Vec<String>,
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // More than wanted is the case after a scale-down; nobody is missing.
        write!(f, "{} of {} servers", self.connected, self.wanted.max(self.connected))
    }
}

/// Tells it.
pub(super) struct Standing {
    metrics: Metrics,
    servers: watch::Sender<Servers>,
}

impl Standing {
    pub(super) fn new(metrics: &Metrics) -> (Self, watch::Receiver<Servers>) {
        let (servers, seen) = watch::channel(Servers::default());
        (Self { metrics: metrics.clone(), servers }, seen)
    }

    pub(super) fn publish<'a>(&self, connected: usize, wanted: usize, ids: impl Iterator<Item = &'a str>) {
        let now = Servers { connected, wanted, ids: ids.map(str::to_owned).collect() };
        self.servers.send_if_modified(|servers| {
            let modified = *servers != now;
            if modified {
                self.metrics.set_servers(connected, wanted);
                *servers = now;
            }
            modified
        });
    }
}
