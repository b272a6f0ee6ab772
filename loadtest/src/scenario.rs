//! The scenarios: what is done through the tunnel, and what is learnt from it.

mod bulk;
mod bytes;
pub(crate) mod dial;
mod dial_idle;
mod idle;
mod isolation;
mod ping;

use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use crate::bench::Bench;
use crate::figures::Outcome;
use crate::profile::{self, Profile};

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
    /// One-byte round trips beside a download on the same agent.
    PingBulk,
    /// Dial, one byte there and back, close; with many workers.
    Dial,
    /// What connections that stall do to others of the same agent.
    Isolation,
    /// Whether every byte arrives, whoever closes when and speaks first.
    Bytes,
    /// Dials beside many connections that do nothing, and without them.
    DialIdle,
    /// Profile: files both ways, hashed.
    Cp,
    /// Profile: keys typed into shells, with their echo.
    Exec,
    /// Profile: lines of logs that are followed.
    Logs,
    /// Profile: all other profiles at once.
    Mixed,
    /// Profile: many small answers in parallel, and large ones.
    PortForward,
    /// Profile: medium downloads, each on a new connection.
    Scrape,
    /// Profile: many connections that are idle but for an event now and then.
    Watch,
    /// Profile: bursts of short dials.
    Webhook,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Ping => "ping",
            Self::PingBulk => "ping-bulk",
            Self::Dial => "dial",
            Self::Isolation => "isolation",
            Self::Bytes => "bytes",
            Self::Idle => "idle",
            Self::DialIdle => "dial-idle",
            Self::Cp => Profile::Cp.name(),
            Self::Exec => Profile::Exec.name(),
            Self::Logs => Profile::Logs.name(),
            Self::Mixed => Profile::Mixed.name(),
            Self::PortForward => Profile::PortForward.name(),
            Self::Scrape => Profile::Scrape.name(),
            Self::Watch => Profile::Watch.name(),
            Self::Webhook => Profile::Webhook.name(),
        }
    }

    /// Whether it is run when none is named.
    pub(crate) fn is_basic(self) -> bool {
        match self {
            Self::Bulk | Self::Bytes | Self::Dial | Self::Idle | Self::Isolation | Self::Ping => true,
            Self::DialIdle
            | Self::PingBulk
            | Self::Cp
            | Self::Exec
            | Self::Logs
            | Self::Mixed
            | Self::PortForward
            | Self::Scrape
            | Self::Watch
            | Self::Webhook => false,
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
            Self::PingBulk => ping::run_beside_bulk(bench).await,
            Self::Dial => dial::run(bench).await,
            Self::Isolation => isolation::run(bench).await,
            Self::Bytes => bytes::run(bench).await,
            Self::Idle => idle::run(bench).await,
            Self::DialIdle => dial_idle::run(bench).await,
            Self::Cp => profile::run(bench, Profile::Cp).await,
            Self::Exec => profile::run(bench, Profile::Exec).await,
            Self::Logs => profile::run(bench, Profile::Logs).await,
            Self::Mixed => profile::run(bench, Profile::Mixed).await,
            Self::PortForward => profile::run(bench, Profile::PortForward).await,
            Self::Scrape => profile::run(bench, Profile::Scrape).await,
            Self::Watch => profile::run(bench, Profile::Watch).await,
            Self::Webhook => profile::run(bench, Profile::Webhook).await,
        }
    }
}
