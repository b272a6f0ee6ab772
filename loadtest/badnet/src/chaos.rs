//! A thousand canaries on four agents, beside which one event after the other happens. Each event touches two of the
//! agents, the victims, or the server; what it may cost is in `event.rs`, and everything else is a loss.

mod api;
mod board;
mod clock;
mod disk;
mod event;
mod judge;
mod load;
mod names;
mod perform;
mod report;
mod strangers;
mod world;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Programs, ScoreArgs, complain, say};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::time::{Instant, sleep};

pub(crate) use api::{ApiArgs, be_api};
pub(crate) use strangers::{StrangersArgs, be_strangers};

use crate::line_args::{LineArgs, time};
use board::Board;
use event::Kind;
use judge::{Window, judge};
use load::Load;
use report::{Report, Usage};
use world::World;

/// Time for all canaries to sing at first.
const START: Duration = Duration::from_secs(60);

/// Longest time after an event until dials to every agent work again, and every canary is heard.
const RETURN: Duration = Duration::from_secs(20);

/// Time for the server to close the files that it opened for canaries, dials and strangers.
const CLOSED: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    scores: ScoreArgs,
    /// The events, which happen in an order that --seed decides; all of them without this flag.
    #[arg(long, value_enum, value_delimiter = ',')]
    events: Vec<Kind>,
    /// Canaries of all four agents together.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(4..=4096))]
    canaries: u16,
    /// Time between two lines of a canary, in each direction.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = time)]
    every: Duration,
    /// Fails if an event does harm that it should not.
    #[arg(long)]
    strict: bool,
}

/// True unless `--strict` does not hold.
pub(crate) async fn run(args: &ChaosArgs) -> anyhow::Result<bool> {
    rlimit::increase_nofile_limit(u64::MAX).context("files of this process")?;
    let order = order(&args.events, args.line.seed);
    let names: Vec<_> = order.iter().map(|kind| kind.name()).collect();
    say(&format!("seed {}: {}", args.line.seed, names.join(", ")));
    let network = args.line.network(0.0)?;
    let mut world = World::start(network, &args.line, &args.programs, args.canaries, &order).await?;
    let report = Box::pin(happen(args, &mut world, &order)).await.with_context(|| world.last_words())?;
    if report.is_bad() {
        complain(&world.last_words());
    }
    report.deliver(args.line.json.as_deref(), &args.scores)?;
    Ok(!args.strict || !report.is_bad())
}

/// The events in the order of a seed.
fn order(events: &[Kind], seed: u64) -> Vec<Kind> {
    let mut order = if events.is_empty() { Kind::all() } else { events.to_vec() };
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    order
}

async fn happen(args: &ChaosArgs, world: &mut World, order: &[Kind]) -> anyhow::Result<Report> {
    let before = world.usage()?;
    let board = Arc::new(Board::new(args.canaries.into()));
    let load = Load::begin(&board, &world.frontend(), args.every);
    let calm = board.calm(Instant::now(), START).await;
    anyhow::ensure!(calm, "{} canaries do not sing", board.silent(Instant::now()).iter().sum::<usize>());
    let mut windows = Vec::new();
    for kind in order {
        windows.push(Box::pin(event(*kind, world, &board)).await.with_context(|| kind.name())?);
    }
    let (lives, dials) = load.end().await?;
    let after = settled(world, before).await?;
    let rows = judge(&windows, &lives, &dials);
    Ok(Report { seed: args.line.seed, rows, before, after })
}

async fn event(kind: Kind, world: &mut World, board: &Board) -> anyhow::Result<Window> {
    let (alive, began) = (board.alive(), Instant::now());
    board.forget_gaps();
    let outcome = Box::pin(perform::perform(kind, world)).await?;
    let over = Instant::now();
    board.calm(over, RETURN).await;
    let seconds = (Instant::now() - began).as_secs_f64();
    complain(&format!("{} {seconds:.1} s: {}", kind.name(), kind.what()));
    Ok(Window {
        kind,
        began,
        over,
        seconds,
        alive,
        silent: board.silent(over),
        gaps: board.gaps(),
        usage: world.usage()?,
        outcome,
    })
}

/// The memory and the open files of the server at the end of the wait for its files to be closed.
async fn settled(world: &World, before: Usage) -> anyhow::Result<Usage> {
    let end = Instant::now() + CLOSED;
    loop {
        let now = world.usage()?;
        if now.files <= before.files || Instant::now() >= end {
            return Ok(now);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_an_order_of_all_events() {
        let (once, again, other) = (order(&[], 1), order(&[], 1), order(&[], 2));
        assert_eq!(once, again);
        assert_ne!(once, other);
        assert!(Kind::all().iter().all(|kind| once.contains(kind)));
        assert_eq!(order(&[Kind::Kill], 1), [Kind::Kill]);
    }
}
