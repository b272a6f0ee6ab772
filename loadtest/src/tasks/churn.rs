//! `loadtest churn`: dials that end at once, and agents that leave and return, for a long time. Memory, open
//! files, threads and tasks must end where they began.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use measuring_kit::{Link, complain};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tunnel_client::Protocol;

use crate::bench::Bench;
use crate::figures::Outcome;
use crate::fleet::args::RoomArgs;
use crate::fleet::processes::Fleet;
use crate::fleet::room::{JOIN_LIMIT, Joining, Room, on_each_link};
use crate::frontend::FrontendArgs;
use crate::output::Progress;
use crate::pace;
use crate::plan::{Plan, number_within};
use crate::process::Process;
use crate::reasons::Reasons;
use crate::scenario::dial::cycle;
use crate::schedule::{Gaps, Random, Schedule};
use crate::target::Addresses;

/// Limit of one dial and echo: longer than the client's own limit of a dial, whose error says more.
const DIAL_LIMIT: Duration = Duration::from_secs(60);

/// Dials under way at once: a server that keeps up has fewer, and one that does not must not use up the open
/// files.
const UNDERWAY: usize = 1000;

/// Pause between the load and the look: what is to be closed is closed by then.
const SETTLE: Duration = Duration::from_secs(3);

/// Memory may grow by this many bytes and this part without being a leak: allocators keep memory that was
/// once needed. Less fails on good builds; more hides leaks of a byte per dial.
const MEMORY_BYTES: f64 = 8e6;
const MEMORY_PART: f64 = 0.1;

#[derive(Debug, Clone, Args)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    room: RoomArgs,
    /// Agents on the server.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agents: u32,
    /// Minutes of load, on each link.
    #[arg(long, default_value_t = 60.0, value_parser = number_within(0.05, 10_000.0))]
    minutes: f64,
    /// Parts of the load; memory, files and threads are counted after each.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=1000))]
    parts: u32,
    /// Dials per second, half of them by CONNECT, half by gRPC.
    #[arg(long, default_value_t = 200.0, value_parser = number_within(0.1, 100_000.0))]
    dials: f64,
    /// Agents per second that leave and return.
    #[arg(long, default_value_t = 5.0, value_parser = number_within(0.0, 10_000.0))]
    flap: f64,
}

pub(crate) async fn run(args: &ChurnArgs) -> anyhow::Result<bool> {
    on_each_link(&args.room, "churn", async |room, link, outcome| measure(args, room, link, outcome).await)
        .await
}

async fn measure(args: &ChurnArgs, room: &Room, link: Link, outcome: &mut Outcome) -> anyhow::Result<()> {
    let progress = Progress::new();
    let benches = benches(room)?;
    let (count, processes) = (args.agents, args.room.processes);
    let (mut fleet, _) = room.join(Joining { link, id: "churn", count, processes }).await?;
    let mut watched = vec![room.server()];
    watched.extend(fleet.ids().into_iter().map(|pid| Process { name: format!("agents {pid}"), pid }));
    let (mut looks, mut dials) = (Vec::new(), Dials::default());
    let part = Duration::from_secs_f64(args.minutes * 60.0 / f64::from(args.parts));
    for number in 1..=args.parts {
        progress.show(&format!("churn {}, part {number} of {}", link.name(), args.parts));
        fleet.flap(args.flap)?;
        dials.add(load(args, &benches, part, u64::from(number), &mut fleet).await?);
        fleet.flap(0.0)?;
        fleet.all(JOIN_LIMIT).await?;
        room.counts("tunnel_server_tunnels", args.agents).await?;
        // The question itself was a connection.
        sleep(SETTLE).await;
        looks.push(look(room, &watched).await?);
    }
    progress.clear();
    outcome.add("dials", dials.done as f64, "dials");
    outcome.add("dials that failed", dials.failed.total() as f64, "dials");
    outcome.add("agents that left and returned", fleet.standing().left as f64, "agents");
    if dials.done == 0 {
        outcome.fail(format!("no dial worked: {}", dials.failed));
    } else if dials.failed.total() > 0 {
        complain(&format!("churn {}: dials that failed: {}", link.name(), dials.failed));
    }
    judge(&watched, &looks, outcome);
    Ok(())
}

fn benches(room: &Room) -> anyhow::Result<[Arc<Bench>; 2]> {
    // Simulated agents do not look at it.
    let nowhere = "127.0.0.1:9".parse()?;
    let target = Addresses { commands: nowhere, banner: nowhere };
    let bench = |protocol| {
        let frontend = FrontendArgs::unix(protocol, &room.uds).resolve()?;
        anyhow::Ok(Arc::new(Bench::new(frontend, target, Vec::new(), Plan::default())))
    };
    Ok([bench(Protocol::Connect)?, bench(Protocol::Grpc)?])
}

#[derive(Debug, Default)]
struct Dials {
    done: u64,
    failed: Reasons,
}

impl Dials {
    fn add(&mut self, more: Self) {
        self.done += more.done;
        self.failed.add(more.failed);
    }

    fn count(&mut self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.done += 1,
            // A dial whose agent leaves meanwhile fails, as it should.
            Err(error) => self.failed.count(&format!("{error:#}")),
        }
    }
}

/// Dials by a schedule for `time`, while agents leave and return.
async fn load(
    args: &ChurnArgs,
    benches: &[Arc<Bench>; 2],
    time: Duration,
    seed: u64,
    fleet: &mut Fleet,
) -> anyhow::Result<Dials> {
    let schedule = Schedule::new(Gaps::Poisson, Duration::from_secs_f64(1.0 / args.dials), Random::new(seed));
    let (start, mut dials, mut underway) = (Instant::now(), Dials::default(), JoinSet::new());
    for (bench, offset) in benches.iter().cycle().zip(schedule).take_while(|(_, offset)| *offset < time) {
        loop {
            tokio::select! {
                biased;
                standing = fleet.next() => { standing?; }
                () = pace::until(start + offset) => break,
            }
        }
        while let Some(ended) = underway.try_join_next() {
            dials.count(ended?);
        }
        if underway.len() >= UNDERWAY {
            dials.count(Err(anyhow::anyhow!("too many dials under way")));
            continue;
        }
        let bench = Arc::clone(bench);
        underway.spawn(async move { timeout(DIAL_LIMIT, cycle(&bench)).await? });
    }
    while let Some(ended) = underway.join_next().await {
        dials.count(ended?);
    }
    Ok(dials)
}

/// The numbers while nothing happens.
#[derive(Debug, Clone)]
struct Look {
    /// Memory, files and threads of each process.
    processes: Vec<[f64; 3]>,
    streams: f64,
    connections: f64,
    /// Tasks of the server, with those of listeners and tunnels.
    tasks: f64,
}

async fn look(room: &Room, watched: &[Process]) -> anyhow::Result<Look> {
    let of = |process: &Process| -> anyhow::Result<[f64; 3]> {
        Ok([process.resident()? as f64, process.open_files()? as f64, process.threads()? as f64])
    };
    Ok(Look {
        processes: watched.iter().map(of).collect::<Result<_, _>>()?,
        streams: room.metric("tunnel_server_streams").await?,
        connections: room.metric("tunnel_server_connections").await?,
        tasks: room.metric("tunnel_tasks").await?,
    })
}

/// Compares the last look with the first one. Both follow load, so memory that is needed once is in both.
fn judge(watched: &[Process], looks: &[Look], outcome: &mut Outcome) {
    let (Some(first), Some(last)) = (looks.first(), looks.last()) else { return };
    for (at, process) in watched.iter().enumerate() {
        let name = if at == 0 { "server".to_owned() } else { format!("agents {at}") };
        let kinds = [("memory", 1e6, "MB"), ("open files", 1.0, "files"), ("threads", 1.0, "threads")];
        for (kind, (what, scale, unit)) in kinds.into_iter().enumerate() {
            let (begin, end) = (first.processes[at][kind], last.processes[at][kind]);
            outcome.add(format!("{name}, {what}, begin"), begin / scale, unit);
            outcome.add(format!("{name}, {what}, end"), end / scale, unit);
            let allowed = if kind == 0 { begin * MEMORY_PART + MEMORY_BYTES } else { 0.0 };
            if end > begin + allowed {
                outcome.fail(format!("{} ({name}): {what} grew from {begin} to {end}", process.name));
            }
        }
    }
    outcome.add("server, tasks, begin", first.tasks, "tasks");
    outcome.add("server, tasks, end", last.tasks, "tasks");
    if last.tasks > first.tasks {
        outcome.fail(format!("the server's tasks grew from {} to {}", first.tasks, last.tasks));
    }
    outcome.add("streams left", last.streams, "streams");
    outcome.add("connections left", last.connections, "connections");
    if last.streams + last.connections > 0.0 {
        outcome.fail("streams or connections are left although nothing goes on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(begin: [f64; 3], end: [f64; 3], streams: f64) -> Vec<String> {
        let look =
            |numbers, streams| Look { processes: vec![numbers], streams, connections: 0.0, tasks: 9.0 };
        let mut outcome = Outcome::default();
        judge(&[Process::myself()], &[look(begin, 0.0), look(end, streams)], &mut outcome);
        outcome.failures
    }

    #[test]
    fn what_grows_fails() {
        assert!(judged([50e6, 20.0, 3.0], [60e6, 20.0, 3.0], 0.0).is_empty());
        assert!(judged([50e6, 20.0, 3.0], [70e6, 20.0, 3.0], 0.0)[0].contains("memory grew"));
        assert!(judged([50e6, 20.0, 3.0], [50e6, 21.0, 3.0], 0.0)[0].contains("open files grew"));
        assert!(judged([50e6, 20.0, 3.0], [50e6, 19.0, 4.0], 0.0)[0].contains("threads grew"));
        assert!(judged([50e6, 20.0, 3.0], [50e6, 20.0, 3.0], 1.0)[0].contains("are left"));
    }
}
