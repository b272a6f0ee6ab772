//! Agents that are gone, for people.

use tokio::time::Instant;
use tunnel_proto::target::Host;

use super::Registry;

impl Registry {
    /// Every agent that left or is suspect: its id, its hosts, and when it was last seen; the
    /// latest last. `each` is called under the registry's lock.
    pub fn for_each_departed(&self, mut each: impl FnMut(&str, &[Host], Instant)) {
        let state = self.lock();
        for agent in &state.departed {
            each(&agent.id, &agent.hosts, agent.at);
        }
        for (_, agent) in &state.tunnels {
            if let Some(since) = agent.silent_since() {
                let hosts: Vec<_> = agent.routes().hosts().cloned().collect();
                each(&agent.id, &hosts, since);
            }
        }
    }
}
