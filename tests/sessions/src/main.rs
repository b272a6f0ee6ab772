//! `tunnel-sessions`: plays mutations of recorded sessions for a time, plays one of them, or records anew.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use measuring_kit::{Score, ScoreArgs, say};
use tokio::time::Instant;
use tunnel_sessions::{Course, Kept, Lane, Manner, Session, Tally, World, mutated, record, run};

/// Longest time between two looks at what is under test. Longer looks find the culprit among more sessions;
/// shorter ones wait more often.
const ROUND: Duration = Duration::from_secs(60);

/// Plays mutations of recorded sessions against a server and agents in this process.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play mutations until something does not hold, or the time is over.
    Run(RunArgs),
    /// Print a mutation, as a file of the corpus has it.
    Show {
        /// The lane.
        lane: Lane,
        /// The seed of the run.
        seed: u64,
        /// The number of the mutation.
        number: u64,
    },
    /// Play the session of a file.
    Play {
        /// The lane.
        lane: Lane,
        /// The file.
        file: PathBuf,
    },
    /// Record the corpus anew, from correct peers.
    Record,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// How long to play.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The seed of all mutations; random without.
    #[arg(long)]
    seed: Option<u64>,
    /// Number of the first mutation.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Most mutations of each lane.
    #[arg(long)]
    count: Option<u64>,
    /// Servers with their agents, each of which is played with at the same time.
    #[arg(long, default_value_t = 2)]
    worlds: usize,
    /// Peers stay until they are ended, which has to happen within the longest time limit.
    #[arg(long)]
    lingering: bool,
    /// The lanes; all without.
    #[arg(long, value_delimiter = ',')]
    lanes: Vec<Lane>,
    #[command(flatten)]
    scores: ScoreArgs,
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    measuring_kit::run("tunnel-sessions", async {
        match command {
            Command::Run(args) => Box::pin(args.run()).await,
            Command::Show { lane, seed, number } => {
                let recorded = Session::kept(Kept::Recorded, lane)?;
                for step in mutated(lane, &recorded, seed, number) {
                    say(&step.to_string());
                }
                Ok(true)
            }
            Command::Play { lane, file } => {
                let (world, session) = (Box::pin(World::start()).await?, Session::read(&file)?);
                let outcome = world.play(lane, &session.steps, Manner::LINGERING).await?;
                say(&format!("{outcome:?}"));
                world.canaries_sing().await;
                Ok(true)
            }
            Command::Record => {
                let world = Box::pin(World::start()).await?;
                say(&format!("{} sessions", Box::pin(record(&world)).await?));
                Ok(true)
            }
        }
    })
}

impl RunArgs {
    async fn run(self) -> anyhow::Result<bool> {
        let seed = self.seed.unwrap_or_else(rand::random);
        let lanes = if self.lanes.is_empty() { Lane::ALL.to_vec() } else { self.lanes };
        say(&format!("seed {seed}"));
        let worlds = Box::pin(World::start_several(self.worlds)).await?;
        let end = self.count.map_or(u64::MAX, |count| self.from.saturating_add(count));
        let next = lanes.into_iter().map(|lane| (lane, self.from)).collect();
        let until = Instant::now();
        let mut course = Course { seed, next, end, until, lingering: self.lingering };
        let (mut total, began) = (Tally::default(), Instant::now());
        while began.elapsed() < Duration::from_secs(self.seconds) && total.findings.is_empty() {
            let before = course.next.clone();
            if before.values().all(|next| *next >= end) {
                break;
            }
            course.until = (began + Duration::from_secs(self.seconds)).min(Instant::now() + ROUND);
            let round = run(&worlds, &mut course).await?;
            report(&round, &before, began.elapsed());
            for (lane, tried) in round.tried {
                *total.tried.entry(lane).or_default() += tried;
            }
            total.findings.extend(round.findings);
        }
        self.scores.write(scores(&total))?;
        Ok(total.findings.is_empty())
    }
}

fn report(round: &Tally, before: &BTreeMap<Lane, u64>, elapsed: Duration) {
    let tried: Vec<_> = round.tried.iter().map(|(lane, tried)| format!("{lane} {tried}")).collect();
    let all: u64 = round.tried.values().sum();
    say(&format!("{:>5} s  {all} mutations: {}", elapsed.as_secs(), tried.join(", ")));
    for finding in &round.findings {
        say(&format!("finding: {finding}"));
    }
    if !round.findings.is_empty() {
        say(&format!("the round began with {before:?}"));
    }
}

/// A finding that no lane has for itself counts for each of them.
fn scores(total: &Tally) -> Vec<Score> {
    let lost = |lane| {
        let found = total.findings.iter().filter(|finding| finding.lane.is_none_or(|of| of == lane));
        found.count() as u64
    };
    let scores = total.tried.iter();
    scores
        .map(|(lane, tried)| Score { what: lane.score().to_owned(), tried: *tried, lost: lost(*lane) })
        .collect()
}
