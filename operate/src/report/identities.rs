//! The identities of a server's agents, and the claims that they do not prove.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most agents whose claims are named in a report. All of them are counted.
pub const MOST_VIOLATIONS: usize = 100;

/// The identities of the connected agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identities {
    /// `--identity-mode`: strict, audit or legacy.
    pub mode: String,
    /// `--routes-from`: claims or nodes.
    pub routes_from: String,
    /// Tunnels by the kind of identity.
    pub kinds: BTreeMap<String, usize>,
    /// Tunnels of agents.
    pub agents: usize,
    /// Tunnels whose agent claims more than its identity proves.
    pub violating: usize,
    /// Some of those: at most [`MOST_VIOLATIONS`], in a Lease none.
    pub violations: Vec<Violation>,
    /// Targets that several Node objects list; in a Lease none.
    pub contested: Vec<Contested>,
    /// The Node objects that prove addresses, if they are watched.
    pub nodes: Option<Watched>,
}

/// An agent that claims more than its identity proves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Violation {
    /// Its id.
    pub agent: String,
    /// Its identity.
    pub identity: String,
    /// Some of the claims without proof.
    pub claims: Vec<String>,
}

/// A target that several Node objects list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Contested {
    /// The name, address or network.
    pub target: String,
    /// Some of the nodes.
    pub nodes: Vec<String>,
    /// The node that serves it; `None` if it routes to none.
    pub kept_by: Option<String>,
}

/// The state of the watch of Node objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Watched {
    /// The Kubernetes API has listed them.
    pub listed: bool,
    /// Time since the API last reported changes; `None` while the watch works.
    pub stale: Option<u64>,
    /// Number of Node objects.
    pub count: usize,
}

impl Identities {
    /// The agents whose routes depend on the mode, in words; `None` if there are none.
    pub fn verdict(&self) -> Option<String> {
        let Self { violating, agents, .. } = self;
        match self.mode.as_str() {
            _ if *violating == 0 => None,
            "strict" => Some(format!("{violating} of {agents} agents claim routes that they do not get")),
            _ => Some(format!("{violating} of {agents} agents would lose a route in strict mode")),
        }
    }
}
