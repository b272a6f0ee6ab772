//! Connections that stall, in a process of their own: what they keep, and what
//! filling and closing them does to a heap and to caches, is then not a part of
//! the process that measures the healthy ones.
//!
//! That process is this program again (`loadtest stall`). It says a line once
//! nothing moves any more, and ends with its standard input.

mod connections;
mod settled;

use std::time::Duration;

use clap::{Args, ValueEnum};
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::cli::FrontendArgs;
use crate::matrix::children::Child;

pub(crate) use connections::{STILL, run};
pub(crate) use settled::Settled;

/// What a process that starts one reads: one line on its standard output.
const READY: &str = "nothing moves any more";

/// How long it may take until then: as long as it gives itself, and a start.
const READY_LIMIT: Duration = connections::LIMIT.saturating_add(Duration::from_secs(5));

/// How long it may take to end when it is asked to.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Who stops reading.
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

#[derive(Debug, Args)]
pub(crate) struct StallArgs {
    #[command(flatten)]
    pub(crate) frontend: FrontendArgs,
    /// Where the target waits for commands, as the agent reaches it.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) target: std::net::SocketAddr,
    /// Who stops reading.
    #[arg(long, value_enum)]
    pub(crate) side: Side,
    /// How many connections.
    #[arg(long)]
    pub(crate) count: u32,
}

/// Connections that stay as they are until this is ended or dropped; on TCP
/// they are reset then, as those of a client that is killed.
#[derive(Debug)]
pub(crate) struct Stalled {
    child: Child,
    /// What the child says.
    _log: NamedTempFile,
}

impl Stalled {
    /// Opens them, and returns once everything on the way has filled up.
    ///
    /// # Errors
    /// In the child's words when it cannot open or fill them.
    pub(crate) async fn start(bench: &Bench, side: Side, count: u32) -> anyhow::Result<Self> {
        let log = NamedTempFile::new()?;
        let mut flags = vec!["stall".to_owned()];
        flags.extend(bench.frontend.flags.iter().cloned());
        flags.push(format!("--target={}", bench.target()));
        flags.push(format!("--side={}", side.flag()));
        flags.push(format!("--count={count}"));
        let mut child = Child::start_again(side.name(), &flags, log.path())?;
        child.wait_for_line(READY, READY_LIMIT).await?;
        Ok(Self { child, _log: log })
    }

    /// Closes all of them at once, and waits until the processes under test have
    /// let go of them, so that what follows is not disturbed; says how long that
    /// took.
    ///
    /// # Errors
    /// When one of them was cut before, in the child's words, and when a process
    /// does not let go.
    pub(crate) async fn end(mut self, settled: &Settled) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.child.end(END_LIMIT).await?;
        settled.wait().await?;
        Ok(start.elapsed())
    }
}
