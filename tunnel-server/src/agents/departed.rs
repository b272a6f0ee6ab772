//! Agents that are gone, for people, and for dials that wait for their successors.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_proto::target::Host;

use super::{Registry, Routes};

impl Registry {
    /// Whether an agent whose routes are `wanted` left within `time`, or was found to have left.
    pub(crate) fn has_left_within(&self, time: Duration, wanted: impl Fn(&Routes) -> bool) -> bool {
        let state = self.lock();
        let mut departed = state.departed.iter().rev().take_while(|agent| agent.at.elapsed() < time);
        departed.any(|agent| wanted(&agent.routes))
            || state.tunnels.iter().any(|(_, agent)| agent.is_lost() && wanted(&agent.routes()))
    }

    /// Every agent that left or is suspect: its id, its hosts, and when it was last seen; the
    /// latest last. `each` is called under the registry's lock.
    pub fn for_each_departed(&self, mut each: impl FnMut(&str, &[Host], Instant)) {
        let state = self.lock();
        for agent in &state.departed {
            let hosts: Vec<_> = agent.routes.hosts().cloned().collect();
            each(&agent.id, &hosts, agent.at);
        }
        for (_, agent) in &state.tunnels {
            if let Some(since) = agent.silent_since() {
                let hosts: Vec<_> = agent.routes().hosts().cloned().collect();
                each(&agent.id, &hosts, since);
            }
        }
    }
}
