//! Profiles: traffic in the shapes that real clients give it.
//!
//! Every operation has a moment at which it is to begin, from a seeded schedule
//! that does not wait for anything (open loop), and its latency counts from that
//! moment: an operation that had to queue behind a stall shows the whole wait.
//! Beside them run canaries, whose bytes are hashed at both ends, and as many
//! clients that have stopped reading as are asked for.

mod canary;
mod copy;
mod exchange;
mod lines;
mod schedule;
mod score;
mod stage;
#[cfg(test)]
mod tests;
mod typing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::bench::Bench;
use crate::figures::{Meter, Outcome};
use crate::stall::{Settled, Side, Stalled};

pub(crate) use exchange::serve;
pub(crate) use lines::{Lines, tell};
pub(crate) use schedule::{Gaps, Random, Schedule};
pub(crate) use score::reason;
pub(crate) use typing::shell;

use stage::{Stage, Window};

/// How long operations may go on after the last one began.
const FINISH: Duration = Duration::from_secs(45);

/// Between the last preparation and the first moment of the schedule.
const PREPARED: Duration = Duration::from_millis(20);

/// Options of all profiles.
#[derive(Debug, Clone, Default, Args, Serialize)]
pub(crate) struct ProfileArgs {
    /// Profiles: how many users, followers and requests, compared with what a
    /// cluster of some hundred nodes sees.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub(crate) scale: f64,
    /// Profiles: the same number gives the same schedule.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Profiles: connections beside them whose bytes are hashed at both ends.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) canaries: u32,
}

impl ProfileArgs {
    /// For short windows, in tests.
    #[cfg(test)]
    pub(crate) fn short() -> Self {
        Self { scale: 2.0, seed: 1, canaries: 1 }
    }
}

fn scale(text: &str) -> anyhow::Result<f64> {
    let scale: f64 = text.parse()?;
    anyhow::ensure!((0.01..=1000.0).contains(&scale), "not within 0.01 to 1000");
    Ok(scale)
}

/// A profile by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Cp,
    Exec,
    Logs,
    Mixed,
    PortForward,
    Scrape,
    Watch,
    Webhook,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cp => "cp",
            Self::Exec => "exec",
            Self::Logs => "logs",
            Self::Mixed => "mixed",
            Self::PortForward => "port-forward",
            Self::Scrape => "scrape",
            Self::Watch => "watch",
            Self::Webhook => "webhook",
        }
    }

    fn shapes(self) -> &'static [Shape] {
        use Shape as S;
        match self {
            Self::Cp => &[S::Upload, S::Download],
            Self::Exec => &[S::Keystrokes],
            Self::Logs => &[S::Lines],
            Self::PortForward => &[S::Pages, S::Large],
            Self::Scrape => &[S::Scrapes],
            Self::Watch => &[S::Events],
            Self::Webhook => &[S::Webhooks],
            Self::Mixed => &[
                S::Keystrokes,
                S::Lines,
                S::Upload,
                S::Download,
                S::Events,
                S::Webhooks,
                S::Pages,
                S::Large,
                S::Scrapes,
            ],
        }
    }
}

/// One kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One large answer on a connection of its own.
    Large,
    /// Keys typed into shells, with their echo and what commands print.
    Keystrokes,
    /// Lines of logs that are followed.
    Lines,
    /// A file from the target.
    Download,
    /// What watches that are mostly idle are told.
    Events,
    /// Small files that a browser gets through a port-forward.
    Pages,
    /// Metrics of a node.
    Scrapes,
    /// A file to the target.
    Upload,
    /// Calls of webhooks, in bursts.
    Webhooks,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Events => "events",
            Self::Keystrokes => "keystrokes",
            Self::Large => "large answers",
            Self::Lines => "log lines",
            Self::Pages => "small answers",
            Self::Scrapes => "scrapes",
            Self::Upload => "upload",
            Self::Webhooks => "webhooks",
        }
    }

    /// Opens what there is before the first moment, and gives the rest.
    async fn prepare(self, stage: &Arc<Stage>) -> anyhow::Result<Prepared> {
        Ok(match self {
            Self::Keystrokes => Prepared::Typing(typing::open(stage).await?),
            Self::Lines => Prepared::Lines(lines::open(stage, &lines::LOGS).await?),
            Self::Events => Prepared::Lines(lines::open(stage, &lines::WATCHES).await?),
            Self::Download => Prepared::Copies(copy::Way::Down),
            Self::Upload => Prepared::Copies(copy::Way::Up),
            Self::Large => Prepared::Exchanges(&exchange::LARGE),
            Self::Pages => Prepared::Exchanges(&exchange::PAGES),
            Self::Scrapes => Prepared::Exchanges(&exchange::SCRAPES),
            Self::Webhooks => Prepared::Exchanges(&exchange::WEBHOOKS),
        })
    }
}

/// A shape that can begin.
enum Prepared {
    Copies(copy::Way),
    Exchanges(&'static exchange::Habit),
    Lines(Vec<lines::Follower>),
    Typing(Vec<typing::Shell>),
}

impl Prepared {
    /// Goes on until the window is over and the last operation has ended.
    async fn run(self, stage: Arc<Stage>, window: Window) {
        match self {
            Self::Copies(way) => copy::run(stage, window, way).await,
            Self::Exchanges(habit) => exchange::run(stage, window, habit).await,
            Self::Lines(followers) => lines::run(&stage, window, followers).await,
            Self::Typing(shells) => typing::run(&stage, window, shells).await,
        }
    }
}

pub(crate) async fn run(bench: &Arc<Bench>, profile: Profile) -> anyhow::Result<Outcome> {
    let (name, args, stalled) = (profile.name(), &bench.plan.profile, bench.plan.stalled_beside());
    bench.progress(&format!("{name}, opening"));
    // Fails here, with its reason, when no dial works at all.
    drop(bench.open().await?);
    let settled = Settled::now(bench);
    let readers = match stalled {
        0 => None,
        count => Some(Stalled::start(bench, Side::Clients, count).await?),
    };
    let mut shapes = Vec::new();
    for (family, shape) in (1..).zip(profile.shapes()) {
        let stage = Arc::new(Stage::new(bench, family)?);
        let prepared = shape.prepare(&stage).await.with_context(|| format!("open {}", shape.name()))?;
        shapes.push((shape, stage, prepared));
    }

    let window = Window::new(Instant::now() + PREPARED, &bench.plan);
    let (mut tasks, mut stages) = (JoinSet::new(), Vec::new());
    for (shape, stage, prepared) in shapes {
        tasks.spawn(prepared.run(Arc::clone(&stage), window));
        stages.push((shape, stage));
    }
    let canaries = canary::start(bench, args.canaries, window.end);
    bench.progress(&format!("{name}, running"));
    sleep_until(window.begin).await;
    let meter = Meter::start(&bench.watched)?;
    sleep_until(window.end).await;
    let used = meter.stop()?;
    bench.progress(&format!("{name}, finishing"));
    let finished = timeout(FINISH, async { while tasks.join_next().await.is_some() {} }).await;

    let mut outcome = Outcome::default();
    for (shape, stage) in &stages {
        let name = if stages.len() == 1 { "" } else { shape.name() };
        stage.report(name, window, &mut outcome);
    }
    outcome.add("stalled readers", f64::from(stalled), "connections");
    outcome.add_cpu("", &used, used.seconds, 1e3, "CPU-ms/s");
    if finished.is_err() {
        outcome.fail(format!("operations went on for {FINISH:?} after the last one began"));
    }
    canaries.report(&mut outcome).await;
    if let Some(readers) = readers
        && let Err(error) = readers.end(&settled).await
    {
        outcome.fail(format!("stalled readers: {error:#}"));
    }
    Ok(outcome)
}
