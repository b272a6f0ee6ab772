//! What a process of agents tells: one line of JSON whenever the numbers change.

use serde::{Deserialize, Serialize};

/// The numbers of one process, or of all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Agents that have a tunnel now.
    pub(super) connected: usize,
    /// Tunnels established so far, by all agents together.
    pub(super) tunnels: u64,
    /// Attempts that led to no tunnel.
    pub(super) failed: u64,
    /// Agents that were made to leave.
    pub(super) left: u64,
}

impl Standing {
    pub(super) fn sum(of: impl IntoIterator<Item = Self>) -> Self {
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

/// What such a process is told on its standard input.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// So many agents per second leave and return from now on.
    Flap(f64),
}
