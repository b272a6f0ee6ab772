//! `loadtest storm`: a server ends and is started again, and all of its agents connect again.

use std::time::Duration;

use clap::{Args, ValueEnum};
use measuring_kit::Link;
use tokio::time::sleep;

use crate::figures::{Meter, Outcome};
use crate::fleet::args::RoomArgs;
use crate::fleet::processes::Fleet;
use crate::fleet::room::{JOIN_LIMIT, Joining, Room, on_each_link};
use crate::output::Progress;
use crate::plan::number_within;

#[derive(Debug, Clone, Args)]
pub(crate) struct StormArgs {
    #[command(flatten)]
    room: RoomArgs,
    /// Agents on the server.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agents: u32,
    /// How the server ends.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [How::Kill, How::Term])]
    how: Vec<How>,
    /// Restarts, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds between all being there and the next restart. Agents wait longer
    /// before they dial if their last tunnel was short.
    #[arg(long, default_value_t = 12.0, value_parser = number_within(0.1, 3600.0))]
    settle: f64,
    /// Fails when a restarted server does not have all agents after so many seconds.
    #[arg(long, value_name = "SECONDS")]
    max_seconds: Option<f64>,
}

/// How a server ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// SIGKILL.
    Kill,
    /// SIGTERM: it drains.
    Term,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "killed",
            Self::Term => "terminated",
        }
    }
}

pub(crate) async fn run(args: &StormArgs) -> anyhow::Result<bool> {
    on_each_link(&args.room, "storm", async |room, link, outcome| measure(args, room, link, outcome).await)
        .await
}

async fn measure(args: &StormArgs, room: &mut Room, link: Link, outcome: &mut Outcome) -> anyhow::Result<()> {
    let progress = Progress::new();
    let (count, processes) = (args.agents, args.room.processes);
    let (mut fleet, took) = room.join(Joining { link, id: "storm", count, processes }).await?;
    outcome.add("agents", f64::from(args.agents), "agents");
    outcome.add("first join", took.as_secs_f64(), "s");
    for how in &args.how {
        let mut rounds = Vec::new();
        for round in 1..=args.rounds {
            progress.show(&format!("storm {}, {}, round {round}", link.name(), how.name()));
            settle(&mut fleet, Duration::from_secs_f64(args.settle)).await?;
            rounds.push(restart(args, room, &mut fleet, *how).await?);
        }
        report(args, *how, rounds, outcome);
    }
    progress.clear();
    Ok(())
}

/// Waits, and goes on reading the processes' numbers.
async fn settle(fleet: &mut Fleet, time: Duration) -> anyhow::Result<()> {
    let end = sleep(time);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            standing = fleet.next() => { standing?; }
        }
    }
}

/// The figures of one restart.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Seconds from the new server's start until all agents were back.
    seconds: f64,
    /// Seconds until half of them were back.
    half: f64,
    /// Seconds from the order to end until the new server listened.
    gap: f64,
    /// CPU seconds of the new server until all agents were back.
    cpu: f64,
    failed: u64,
}

async fn restart(args: &StormArgs, room: &mut Room, fleet: &mut Fleet, how: How) -> anyhow::Result<Round> {
    let before = fleet.standing();
    let restarted = room.restart(how == How::Kill).await?;
    let watched = [room.server()];
    let meter = Meter::start(&watched)?;
    let agents = u64::from(args.agents);
    let half =
        fleet.wait("half of them back", JOIN_LIMIT, |now| now.tunnels - before.tunnels >= agents / 2).await?;
    // Each has a new tunnel, and none has lost it again.
    let all = fleet
        .wait("all back", JOIN_LIMIT, |now| {
            now.tunnels - before.tunnels >= agents && now.connected == args.agents as usize
        })
        .await?;
    let used = meter.stop()?;
    room.counts("tunnel_server_tunnels", args.agents).await?;
    Ok(Round {
        seconds: (all - restarted.started).as_secs_f64(),
        half: (half - restarted.started).as_secs_f64(),
        gap: (restarted.listening - restarted.told).as_secs_f64(),
        cpu: used.cpu.iter().map(|(_, seconds)| seconds).sum(),
        failed: fleet.standing().failed - before.failed,
    })
}

fn report(args: &StormArgs, how: How, mut rounds: Vec<Round>, outcome: &mut Outcome) {
    rounds.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let (middle, Some(worst)) = (rounds[rounds.len() / 2], rounds.last()) else { return };
    let name = how.name();
    outcome.add(format!("{name}: all back, median"), middle.seconds, "s");
    outcome.add(format!("{name}: all back, worst"), worst.seconds, "s");
    outcome.add(format!("{name}: half back"), middle.half, "s");
    outcome.add(format!("{name}: without a server"), middle.gap, "s");
    outcome.add(format!("{name}: cpu server"), middle.cpu, "CPU-s");
    outcome.add(format!("{name}: attempts that failed"), middle.failed as f64, "attempts");
    if args.max_seconds.is_some_and(|most| worst.seconds > most) {
        outcome.fail(format!("{name}: all agents were back only after {:.2} s", worst.seconds));
    }
}
