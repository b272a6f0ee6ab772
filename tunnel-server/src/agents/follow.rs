//! Routes of tunnels that follow the Node objects.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tunnel::drain::Drain;
use tunnel_kube::nodes::Nodes;

use super::{AgentTunnel, Registry, Trust};

/// Time between two changes of routes. Less costs milliseconds of processor time for each of ten
/// thousand nodes that come together; more delays the routes of a changed node.
const SETTLE: Duration = Duration::from_millis(250);

impl Registry {
    /// Lets `trust` know the nodes from now on, and gives all tunnels new routes when the nodes
    /// change, until the drain is killed.
    pub(crate) fn follow(&self, trust: &Trust, mut nodes: watch::Receiver<Nodes>, drain: &Drain) {
        trust.watch(nodes.clone());
        let (registry, trust, until) = (self.clone(), trust.clone(), drain.clone());
        let following = async move {
            loop {
                if nodes.changed().await.is_err() {
                    // The watch has ended with the drain; the routes stay.
                    return;
                }
                trust.take(&nodes.borrow_and_update());
                registry.route_anew(&trust);
                sleep(SETTLE).await;
            }
        };
        drain.spawn("routes of nodes", async move {
            tokio::select! {
                biased;
                () = until.killed() => {}
                () = following => {}
            }
        });
    }

    /// Gives all tunnels the routes of what is known now.
    pub(crate) fn route_anew(&self, trust: &Trust) {
        for agent in self.tunnels() {
            if agent.route_anew(trust) {
                self.changed(&agent);
            }
        }
    }
}

impl AgentTunnel {
    /// True if the routes have changed.
    pub(super) fn route_anew(&self, trust: &Trust) -> bool {
        let routes = trust.routes(&self.identity, &self.claims);
        let changed = *self.routes() != routes;
        if changed {
            self.routes.store(Arc::new(routes));
        }
        changed
    }
}
