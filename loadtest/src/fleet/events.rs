//! The messages between a process of agents and the process above: one line of JSON each.

use serde::{Deserialize, Serialize};

/// The numbers of one process, printed whenever they change; or the sum of all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Agents that have a tunnel now.
    pub(crate) connected: usize,
    /// Tunnels established so far.
    pub(crate) tunnels: u64,
    /// Attempts that led to no tunnel.
    pub(crate) failed: u64,
    /// Agents that were made to leave.
    pub(crate) left: u64,
}

impl Standing {
    pub(crate) fn sum(of: impl IntoIterator<Item = Self>) -> Self {
        of.into_iter().fold(Self::default(), |sum, one| Self {
            connected: sum.connected + one.connected,
            tunnels: sum.tunnels + one.tunnels,
            failed: sum.failed + one.failed,
            left: sum.left + one.left,
        })
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { connected, tunnels, failed, left } = self;
        write!(
            f,
            "{connected} agents connected, {tunnels} tunnels so far, {failed} attempts failed, {left} left"
        )
    }
}

/// An order, on standard input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// Sets the number of agents per second that leave and return.
    Flap(f64),
}
