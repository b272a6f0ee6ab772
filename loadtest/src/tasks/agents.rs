//! `loadtest agents`: thousands of agents of a server. It stands in front of processes with agents, which are
//! this program again with `--orders`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use measuring_kit::say;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::fleet::args::AgentsArgs;
use crate::fleet::crew::Crew;
use crate::fleet::events::Order;
use crate::fleet::processes::Fleet;
use crate::fleet::streams;
use crate::output::Progress;

/// Time between two looks at the numbers of a process; it is the resolution of all times.
const TELL_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug, Args)]
pub(crate) struct AgentsTask {
    #[command(flatten)]
    agents: AgentsArgs,
    /// Idle streams to open through `--streams-uds` once all agents are there.
    #[arg(long, default_value_t = 0, requires = "streams_uds", value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    streams: u32,
    /// The server's frontend for them: gRPC on this Unix socket.
    #[arg(long, value_name = "PATH")]
    streams_uds: Option<PathBuf>,
    /// Seconds until all leave; without it, until a signal or the end of standard input.
    #[arg(long)]
    seconds: Option<f64>,
    /// Take orders and print numbers in JSON; for the process above.
    #[arg(long, hide = true)]
    orders: bool,
}

pub(crate) async fn run(args: &AgentsTask) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    if !args.orders {
        return stand(args).await;
    }
    let crew = Crew::start(&args.agents)?;
    tokio::select! {
        () = tell(&crew) => {}
        result = take_orders(&crew) => result?,
    }
    Ok(true)
}

/// Starts the processes, and prints when all agents are connected, and when some are not.
async fn stand(args: &AgentsTask) -> anyhow::Result<bool> {
    let (count, start) = (args.agents.count as usize, Instant::now());
    let progress = Progress::new();
    let mut fleet = Fleet::start(&args.agents)?;
    let mut wanted = args.streams_uds.as_ref().filter(|_| args.streams > 0);
    let mut held = Vec::new();
    let end = args.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
    let mut since = start;
    let mut all = false;
    loop {
        let standing = tokio::select! {
            standing = fleet.next() => standing?,
            () = until(end) => break,
        };
        progress.show(&standing.to_string());
        let now_all = standing.connected == count;
        if now_all != all {
            progress.clear();
            let seconds = since.elapsed().as_secs_f64();
            let what = if now_all { "all agents are connected" } else { "some agents are not connected" };
            say(&format!("{what} after {seconds:.2} s: {standing}"));
            (all, since) = (now_all, Instant::now());
        }
        if all && let Some(uds) = wanted.take() {
            held = streams::open_grpc(uds, args.streams).await?;
            say(&format!("{} idle streams are open", held.len()));
        }
    }
    progress.clear();
    say(&fleet.standing().to_string());
    drop(held);
    Ok(all || args.agents.flap > 0.0)
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// Prints the numbers whenever they have changed.
async fn tell(crew: &Crew) {
    let mut last = None;
    let mut tick = interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let standing = crew.standing();
        if last != Some(standing) {
            last = Some(standing);
            say(&serde_json::to_string(&standing).unwrap_or_default());
        }
    }
}

/// Obeys until standard input ends, which is the end of the process above.
async fn take_orders(crew: &Crew) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdin()?).lines();
    while let Some(line) = lines.next_line().await? {
        let Order::Flap(rate) = serde_json::from_str(&line)?;
        crew.flap(rate);
    }
    Ok(())
}

/// Standard input as a pipe: a thread that reads it would hold the process.
fn stdin() -> anyhow::Result<tokio::net::unix::pipe::Receiver> {
    use std::os::fd::AsFd as _;
    let owned = std::io::stdin().as_fd().try_clone_to_owned()?;
    Ok(tokio::net::unix::pipe::Receiver::from_owned_fd(owned)?)
}
