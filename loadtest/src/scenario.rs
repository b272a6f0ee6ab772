//! The scenarios: what is done through the tunnel, and what is learnt from it.

mod bulk;
mod bytes;
mod dial;
mod idle;
mod isolation;
mod ping;

use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use crate::bench::Bench;
use crate::figures::Outcome;

/// A scenario by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// What connections cost that do nothing. First, because memory that other
    /// scenarios needed and gave back hides what these need.
    Idle,
    /// Download and upload as fast as it goes, with one stream and with many.
    Bulk,
    /// One-byte round trips, one after the other.
    Ping,
    /// Dial, one byte there and back, close; with many workers.
    Dial,
    /// What connections that stall do to others of the same agent.
    Isolation,
    /// Whether every byte arrives, whoever closes when and speaks first.
    Bytes,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Ping => "ping",
            Self::Dial => "dial",
            Self::Isolation => "isolation",
            Self::Bytes => "bytes",
            Self::Idle => "idle",
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it could not be run; a check that fails is in the outcome.
    pub(crate) async fn run(self, bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
        match self {
            Self::Bulk => bulk::run(bench).await,
            Self::Ping => ping::run(bench).await,
            Self::Dial => dial::run(bench).await,
            Self::Isolation => isolation::run(bench).await,
            Self::Bytes => bytes::run(bench).await,
            Self::Idle => idle::run(bench).await,
        }
    }
}
