//! Connections that stall, in a process of their own (`loadtest stall`): their buffers push those of the
//! measuring process out of the caches, and filling and closing them spreads its heap.
//!
//! The child prints [`READY`] once nothing moves any more, and ends with its standard input.

pub(crate) mod settled;

use std::time::Duration;

use clap::{Args, ValueEnum};
use measuring_kit::Child;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::ours::this_program;
use settled::Settled;

/// The child's line once nothing moves any more.
pub(crate) const READY: &str = "nothing moves any more";

/// The child's limit until then: longer than a dial without an answer, which is then reported as such.
pub(crate) const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// Longest wait for [`READY`]: the child's own limit, and its start.
const READY_LIMIT: Duration = OPEN_LIMIT.saturating_add(Duration::from_secs(5));

/// Longest end of the child once its standard input is closed: it asks its targets for two seconds.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The connections that stall.
#[derive(Debug, Clone, Args)]
pub(crate) struct StalledArgs {
    /// The end that stops reading.
    #[arg(long, value_enum)]
    pub(crate) side: Side,
    /// How many connections.
    #[arg(long)]
    pub(crate) count: u32,
}

/// The end that stops reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    /// Clients, in mid-download.
    Clients,
    /// Targets, in mid-upload.
    Targets,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Clients => "stalled clients",
            Self::Targets => "stalled targets",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Targets => "targets",
        }
    }
}

/// Connections that stall until this is ended or dropped; on TCP they are then reset, as those of a client
/// that is killed.
#[derive(Debug)]
pub(crate) struct Stalled {
    child: Child,
    /// The child's output.
    _log: NamedTempFile,
}

impl Stalled {
    /// Opens them, and returns once every buffer on the way is full.
    ///
    /// # Errors
    /// When the child cannot open or fill them, with the child's error.
    pub(crate) async fn start(bench: &Bench, side: Side, count: u32) -> anyhow::Result<Self> {
        let log = NamedTempFile::new()?;
        let mut flags = vec!["stall".to_owned()];
        flags.extend(bench.frontend.flags.iter().cloned());
        flags.push(format!("--target={}", bench.target()));
        flags.push(format!("--side={}", side.flag()));
        flags.push(format!("--count={count}"));
        let mut child = Child::start(side.name(), this_program(&flags)?, Some(log.path()))?;
        child.wait_for_line(READY, READY_LIMIT).await?;
        Ok(Self { child, _log: log })
    }

    /// Closes all of them at once, and waits until the watched processes have closed their files, so that the
    /// next measurement is not disturbed. Returns the time that this took.
    ///
    /// # Errors
    /// When one of them was cut before, with the child's error, and when a process keeps its files.
    pub(crate) async fn end(mut self, settled: &Settled) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.child.end(END_LIMIT).await?;
        settled.wait().await?;
        Ok(start.elapsed())
    }
}
