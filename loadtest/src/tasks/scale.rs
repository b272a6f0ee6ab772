//! `loadtest scale`: thousands of agents and of idle streams on one server.

use std::time::Duration;

use clap::Args;
use measuring_kit::Link;
use tokio::time::{Instant, sleep};

use crate::dialing::dead;
use crate::figures::{Meter, Outcome};
use crate::fleet::args::RoomArgs;
use crate::fleet::processes::Fleet;
use crate::fleet::room::{Joining, Room, on_each_link};
use crate::fleet::streams;
use crate::output::Progress;
use crate::plan::number_within;
use crate::process::Process;

/// Pause before memory is read: what the joining needed is given back by then.
const SETTLE: Duration = Duration::from_secs(3);

/// Longest time in which a server gives back what agents and streams took. Operators size a server by what it holds, and
/// memory that stays looks like a leak.
const GIVEN_BACK_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub(crate) struct ScaleArgs {
    #[command(flatten)]
    room: RoomArgs,
    /// Agents on the server.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    agents: u32,
    /// Agents that join first; the server's idle CPU time is counted with these.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    first: u32,
    /// Idle streams.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
    /// How many of them by CONNECT, which need a socket each; the others by gRPC, many on one.
    #[arg(long, default_value_t = 10_000)]
    connect: u32,
    /// Seconds for which CPU time is counted while nothing happens.
    #[arg(long, default_value_t = 20.0, value_parser = number_within(0.1, 3600.0))]
    seconds: f64,
    /// Fails when the server, with the first agents and nothing else, takes more
    /// than this part of a core, in percent.
    #[arg(long, value_name = "PERCENT")]
    max_idle_cpu: Option<f64>,
}

pub(crate) async fn run(args: &ScaleArgs) -> anyhow::Result<bool> {
    anyhow::ensure!(args.first < args.agents, "--first is a part of --agents");
    anyhow::ensure!(args.connect <= args.streams, "--connect is a part of --streams");
    on_each_link(&args.room, "scale", async |room, link, outcome| measure(args, room, link, outcome).await)
        .await
}

async fn measure(args: &ScaleArgs, room: &Room, link: Link, outcome: &mut Outcome) -> anyhow::Result<()> {
    let progress = Progress::new();
    let show = |what: &str| progress.show(&format!("scale {}: {what}", link.name()));
    let server = room.server();
    // The first agents and streams cost more than the others.
    let (first_of_all, _) = room.join(Joining { link, id: "first", count: 2, processes: 1 }).await?;
    // The server registers an agent a moment after the agent knows that it is admitted.
    room.counts("tunnel_server_tunnels", 2).await?;
    drop(streams::open_grpc(&room.uds, 64).await?);
    sleep(SETTLE).await;
    drop(first_of_all);
    room.counts("tunnel_server_tunnels", 0).await?;
    let empty = server.resident()?;
    let files = server.open_files()?;

    show("the first agents join");
    let processes = args.room.processes.min(args.first);
    let first = join(room, Joining { link, id: "a", count: args.first, processes }, outcome).await?;
    show("idle");
    idle(args, &server, &format!("{} agents", args.first), outcome).await?;
    let some = server.resident()?;
    show("the other agents join");
    let count = args.agents - args.first;
    let processes = args.room.processes.min(count);
    let rest = join(room, Joining { link, id: "b", count, processes }, outcome).await?;
    room.counts("tunnel_server_tunnels", args.agents).await?;
    let all = server.resident()?;
    outcome.add("agents", f64::from(args.agents), "agents");
    outcome.add("memory, no agents", empty as f64 / 1e6, "MB");
    outcome.add(format!("memory, {} agents", args.agents), all as f64 / 1e6, "MB");
    per(outcome, "memory per agent", some, all, count, "KB/agent");

    show("opening streams by CONNECT");
    let start = Instant::now();
    let mut held = streams::open_connect(&room.uds, args.connect).await?;
    sleep(SETTLE).await;
    let connected = server.resident()?;
    show("opening streams by gRPC");
    held.extend(streams::open_grpc(&room.uds, args.streams - args.connect).await?);
    outcome.add("opening streams", (start.elapsed() - SETTLE).as_secs_f64(), "s");
    sleep(SETTLE).await;
    let full = server.resident()?;
    per(outcome, "memory per CONNECT stream", all, connected, args.connect, "KB/stream");
    per(outcome, "memory per gRPC stream", connected, full, args.streams - args.connect, "KB/stream");
    outcome.add("memory, all", full as f64 / 1e6, "MB");
    outcome.add("streams", f64::from(args.streams), "streams");
    room.counts("tunnel_server_streams", args.streams).await?;
    show("idle with streams");
    idle(args, &server, "all", outcome).await?;
    outcome.add("open files", server.open_files()? as f64, "files");
    show("asking every stream");
    let silent = dead(held).await?;
    if silent > 0 {
        outcome.fail(format!("{silent} of {} idle streams do not answer any more", args.streams));
    }
    show("all leave");
    drop((first, rest));
    room.counts("tunnel_server_tunnels", 0).await?;
    give_back(&server, GivenBack { before: empty, peak: full, files }, outcome).await?;
    progress.clear();
    Ok(())
}

/// Memory and files of a server before its load, and the memory under it.
struct GivenBack {
    before: u64,
    peak: u64,
    files: usize,
}

/// Waits until the server holds no more files than before, and at most a tenth of the memory that the load took.
async fn give_back(server: &Process, state: GivenBack, outcome: &mut Outcome) -> anyhow::Result<()> {
    let GivenBack { before, peak, files } = state;
    let (start, enough) = (Instant::now(), (before + peak.saturating_sub(before) / 10, files));
    loop {
        let now = (server.resident()?, server.open_files()?);
        let back = now.0 <= enough.0 && now.1 <= enough.1;
        if !back && start.elapsed() < GIVEN_BACK_WITHIN {
            sleep(Duration::from_secs(1)).await;
            continue;
        }
        outcome.add("memory, after all have left", now.0 as f64 / 1e6, "MB");
        outcome.add("open files, after all have left", now.1 as f64, "files");
        outcome.add("time until then", start.elapsed().as_secs_f64(), "s");
        if !back {
            outcome
                .fail(format!("the server does not give back memory and files within {GIVEN_BACK_WITHIN:?}"));
        }
        return Ok(());
    }
}

async fn join(room: &Room, joining: Joining<'_>, outcome: &mut Outcome) -> anyhow::Result<Fleet> {
    let (fleet, took) = room.join(joining).await?;
    outcome.add(format!("{} agents join", joining.count), took.as_secs_f64(), "s");
    sleep(SETTLE).await;
    Ok(fleet)
}

async fn idle(args: &ScaleArgs, server: &Process, with: &str, outcome: &mut Outcome) -> anyhow::Result<()> {
    let watched = [server.clone()];
    let meter = Meter::start(&watched)?;
    sleep(Duration::from_secs_f64(args.seconds)).await;
    let used = meter.stop()?;
    let percent = used.cpu.iter().map(|(_, seconds)| seconds).sum::<f64>() / used.seconds * 100.0;
    outcome.add(format!("idle cpu, {with}"), percent, "% of a core");
    if with != "all" && args.max_idle_cpu.is_some_and(|most| percent > most) {
        outcome.fail(format!("the server takes {percent:.2} % of a core with {with}"));
    }
    Ok(())
}

fn per(outcome: &mut Outcome, name: &str, before: u64, after: u64, count: u32, unit: &'static str) {
    if count > 0 {
        outcome.add(name, (after as f64 - before as f64) / 1e3 / f64::from(count), unit);
    }
}
