//! The choice of the agent that gets a dial, by strategies in the operator's order. A pure function
//! of the registered agents and the target.

mod view;
mod why;

use std::str::FromStr;
use std::sync::Arc;

use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Target;

use crate::agents::{AgentTunnel, Routes};
use crate::canonical::canonical_host;
pub use view::View;

/// A way to find the agent of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Any agent.
    Default,
    /// Agents that are a default route.
    DefaultRoute,
    /// Agents with the longest network that contains the target's address.
    DestCidr,
    /// Agents with the target's host among their identifiers.
    DestHost,
}

impl Strategy {
    /// The name in flags, metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::DefaultRoute => "defaultRoute",
            Self::DestCidr => "destCIDR",
            Self::DestHost => "destHost",
        }
    }

    /// Whether an agent with these routes may be chosen for some target.
    pub(crate) fn may_choose(self, routes: &Routes) -> bool {
        let Routes { proven, claimed, any } = routes;
        let has = |of: fn(&Identifiers) -> bool| of(proven) || of(claimed);
        match self {
            Self::Default => *any,
            Self::DefaultRoute => has(|ids| ids.default_route),
            Self::DestCidr => has(|ids| !ids.cidrs.is_empty()),
            Self::DestHost => has(|ids| !ids.hosts.is_empty()),
        }
    }
}

/// The flag's strategies in order, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strategies(pub(crate) Vec<Strategy>);

impl FromStr for Strategies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Strategy::Default, Strategy::DefaultRoute, Strategy::DestCidr, Strategy::DestHost];
        let named = text.split(',').filter(|name| !name.is_empty());
        let strategies = named.map(|name| {
            let found = known.into_iter().find(|strategy| strategy.label() == name);
            found.ok_or_else(|| {
                format!("no strategy {name:?}: use default, destHost, destCIDR or defaultRoute")
            })
        });
        match strategies.collect::<Result<Vec<_>, _>>()? {
            none if none.is_empty() => Err("name at least one strategy".to_owned()),
            strategies => Ok(Self(strategies)),
        }
    }
}

/// The strategies of a server, in order.
#[derive(Debug, Clone)]
pub struct Router {
    strategies: Vec<Strategy>,
}

impl Router {
    /// A router that tries the strategies in this order.
    pub const fn new(strategies: Vec<Strategy>) -> Self {
        Self { strategies }
    }

    pub(crate) fn strategies(&self) -> &[Strategy] {
        &self.strategies
    }

    /// The agent for a target, never `not`. The first strategy with a usable agent decides, even
    /// if all its agents drain: those of a later one possibly do not reach the target. Of two
    /// random equals, the one with fewer streams is picked.
    pub fn pick(
        &self,
        view: &View,
        target: &Target,
        not: Option<&Arc<AgentTunnel>>,
    ) -> Option<Arc<AgentTunnel>> {
        let usable = |agent: &Arc<AgentTunnel>| not.is_none_or(|not| !Arc::ptr_eq(agent, not));
        let host = canonical_host(target.host());
        self.strategies.iter().find_map(|&strategy| view.pick(strategy, &host, usable)).map(Arc::clone)
    }
}

#[cfg(test)]
mod shadows;
#[cfg(test)]
mod tests;
