//! Profiles: traffic in the shapes of real clients.
//!
//! Every operation is due at a moment of a seeded schedule that waits for nothing (open loop). Its latency
//! counts from that moment, so that an operation behind a stall shows the whole wait. Beside the operations
//! run canaries, whose bytes are hashed at both ends, and clients that have stopped reading.

mod canary;
mod copy;
mod exchange;
mod lines;
mod score;
mod stage;
mod typing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::bench::Bench;
use crate::figures::{Meter, Outcome};
use crate::stalled::settled::Settled;
use crate::stalled::{Side, Stalled};
use stage::{Stage, Window};

/// Longest wait for operations after the window: longer than the limit of any operation.
const FINISH: Duration = Duration::from_secs(45);

/// Time between the last preparation and the first moment of the schedule: enough to spawn all tasks.
const PREPARED: Duration = Duration::from_millis(20);

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// A file from the target.
    Download,
    /// Events of watches that are mostly idle.
    Events,
    /// Keys typed into shells, with their echo and the output of commands.
    Keystrokes,
    /// One large answer on a connection of its own.
    Large,
    /// Lines of logs that are followed.
    LogLines,
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
            Self::LogLines => "log lines",
            Self::Pages => "small answers",
            Self::Scrapes => "scrapes",
            Self::Upload => "upload",
            Self::Webhooks => "webhooks",
        }
    }

    /// Opens the connections that are open before the first moment.
    async fn prepare(self, stage: &Arc<Stage>) -> anyhow::Result<Prepared> {
        Ok(match self {
            Self::Keystrokes => Prepared::Typing(typing::open(stage).await?),
            Self::LogLines => Prepared::Lines(lines::open(stage, &lines::LOGS).await?),
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

/// A shape whose connections are open.
enum Prepared {
    Copies(copy::Way),
    Exchanges(&'static exchange::Habit),
    Lines(Vec<lines::Follower>),
    Typing(Vec<typing::Shell>),
}

impl Prepared {
    /// Runs until the window is over and the last operation has ended.
    async fn run(self, stage: Arc<Stage>, window: Window) {
        match self {
            Self::Copies(way) => copy::run(stage, window, way).await,
            Self::Exchanges(habit) => exchange::run(stage, window, habit).await,
            Self::Lines(followers) => lines::run(&stage, window, followers).await,
            Self::Typing(shells) => typing::run(&stage, window, shells).await,
        }
    }
}

pub(super) async fn run(bench: &Arc<Bench>, name: &str, shapes: &[Shape]) -> anyhow::Result<Outcome> {
    let stalled = bench.plan.stalled_beside();
    bench.progress(&format!("{name}, opening"));
    // Fails here, with the reason, when no dial works at all.
    drop(bench.open().await?);
    let settled = Settled::now(bench);
    let readers = match stalled {
        0 => None,
        count => Some(Stalled::start(bench, Side::Clients, count).await?),
    };
    let mut ready = Vec::new();
    for (family, shape) in (1..).zip(shapes) {
        let stage = Arc::new(Stage::new(bench, family)?);
        let prepared = shape.prepare(&stage).await.with_context(|| format!("open {}", shape.name()))?;
        ready.push((shape, stage, prepared));
    }

    let window = Window::new(Instant::now() + PREPARED, &bench.plan);
    let (mut tasks, mut stages) = (JoinSet::new(), Vec::new());
    for (shape, stage, prepared) in ready {
        tasks.spawn(prepared.run(Arc::clone(&stage), window));
        stages.push((shape, stage));
    }
    let canaries = canary::start(bench, bench.plan.profile.canaries, window.end);
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
