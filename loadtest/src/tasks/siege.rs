//! `loadtest siege`: one flood of bad peers after the other on a server, beside streams of which none may
//! notice.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Child, Link, Programs, ScoreArgs};
use tokio::time::{Instant, sleep};

use crate::bystander::{Dials, dials};
use crate::ours::this_program;
use crate::output::{Diary, Progress};
use crate::plan::number_within;
use crate::siege::attack::Tally;
use crate::siege::besieged::Besieged;
use crate::siege::canaries::Canaries;
use crate::siege::floods::{ALL, Flood};
use crate::siege::guest::Guest;
use crate::siege::toll::{Entry, Seen, Toll};

/// Time between two pieces of a canary. A shorter one would keep two cores busy with a thousand canaries.
const PAUSE: Duration = Duration::from_secs(1);

/// Dials and joins of bystanders per second, over all frontends and both links.
const DIALS: f64 = 16.0;
const JOINS: f64 = 2.0;

/// Time for an attacker's process to begin and to end, beside its flood.
const FLOOD_LIMIT: Duration = Duration::from_secs(20);

/// Pause before the server is looked at: what the beginning needed is given back by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Longest time for the server to close what the floods left: handshakes, greetings and requests have ten
/// seconds, silent tunnels some more.
const CLOSED: Duration = Duration::from_secs(60);

/// Memory after the floods, as a part of that before.
const MEMORY: f64 = 1.1;

#[derive(Debug, Clone, Args)]
pub(crate) struct SiegeArgs {
    #[command(flatten)]
    programs: Programs,
    /// Streams that must not notice, over all frontends and both links.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(8..=8192))]
    canaries: u32,
    /// Seconds of a flood.
    #[arg(long, default_value_t = 4.0, value_parser = number_within(0.1, 600.0))]
    seconds: f64,
    /// Only these floods, by their names.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    flood: Vec<String>,
    /// Fails when the server has more than 1.1 times the memory after the floods than before.
    #[arg(long)]
    strict_memory: bool,
    /// Directory for the programs' logs.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    scores: ScoreArgs,
}

pub(crate) async fn run(args: &SiegeArgs) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    let floods: Vec<&Flood> = match &args.flood[..] {
        [] => ALL.iter().collect(),
        names => names.iter().map(|name| Flood::named(name)).collect::<Result<_, _>>()?,
    };
    let siege = Siege::begin(args).await?;
    let toll = Box::pin(siege.endure(&floods)).await?;
    args.scores.write(toll.scores())?;
    toll.deliver(args.json.as_deref())
}

struct Siege<'a> {
    args: &'a SiegeArgs,
    besieged: Arc<Besieged>,
    canaries: Canaries,
    progress: Progress,
}

impl<'a> Siege<'a> {
    async fn begin(args: &'a SiegeArgs) -> anyhow::Result<Self> {
        let progress = Progress::new();
        progress.show("siege: the canaries come");
        let logs = args.logs.clone();
        let besieged = Arc::new(Besieged::start(&args.programs, args.seconds, logs).await?);
        let streams = besieged.streams(args.canaries).await?;
        let canaries = Canaries::release(streams, PAUSE)?;
        Ok(Self { args, besieged, canaries, progress })
    }

    async fn endure(self, floods: &[&'static Flood]) -> anyhow::Result<Toll> {
        // What the first bystanders need once is there before the first look.
        self.bystanders(sleep(Duration::from_millis(600))).await?;
        sleep(SETTLE).await;
        let mut diary = Diary::default();
        let mut toll = Toll::new(self.see().await?);
        drop(self.canaries.noticed().await?);
        for flood in floods {
            self.progress.show(&format!("siege: {}", flood.name));
            diary.note(&format!("siege: {}", flood.name));
            toll.add(self.flood(flood).await.with_context(|| flood.name)?);
        }
        self.progress.show("siege: the end");
        self.relief(&mut toll).await?;
        self.progress.clear();
        let end = self.canaries.end().await?;
        if end.harmed.total() > 0 {
            toll.failures.push(format!("canaries that did not end in order: {}", end.harmed));
        }
        toll.failures.extend(self.besieged.bug().await?);
        Ok(toll)
    }

    /// One flood, and the bystanders beside it.
    async fn flood(&self, flood: &'static Flood) -> anyhow::Result<Entry> {
        self.besieged.log.stall(flood.stalls_log);
        let attack = self.besieged.watch(self.bystanders(self.attack(flood)));
        let ((tally, dials, joins), peak) = match attack.await? {
            (Ok(result), peak) => (result, peak),
            (Err(error), _) => return Err(error),
        };
        self.besieged.log.stall(false);
        let noticed = self.canaries.noticed().await?;
        Ok(Entry::new((flood.name, flood.what), tally?, &noticed, [&dials, &joins], peak))
    }

    /// Dials and joins while `event` goes on.
    async fn bystanders<T>(&self, event: impl Future<Output = T>) -> anyhow::Result<(T, Dials, Dials)> {
        let stop = Arc::new(AtomicBool::new(false));
        let event = async {
            let result = event.await;
            stop.store(true, Ordering::Relaxed);
            result
        };
        let mut ways = self.besieged.ways.iter().cycle();
        let dial = move || {
            let way = ways.next().cloned();
            async move { way.context("no frontend")?.dial().await }
        };
        let mut links = [Link::Quic, Link::H2].into_iter().cycle();
        let join = move || {
            let (besieged, link) = (Arc::clone(&self.besieged), links.next());
            async move {
                let link = link.context("no link")?;
                Box::pin(Guest::admitted(&besieged.ground, link, "bystander", "")).await
            }
        };
        let dialling = Box::pin(dials(dial, DIALS, Arc::clone(&stop)));
        let joining = Box::pin(dials(join, JOINS, Arc::clone(&stop)));
        let (result, dials, joins) = tokio::join!(event, dialling, joining);
        Ok((result, dials?, joins?))
    }

    /// Runs the attackers' process.
    async fn attack(&self, flood: &Flood) -> anyhow::Result<Tally> {
        let ground = serde_json::to_string(&self.besieged.ground)?;
        let flags = ["flood".to_owned(), flood.name.to_owned(), format!("--ground={ground}")];
        let log = self.besieged.log_dir().join(format!("flood-{}.log", flood.name));
        let mut attackers = Child::start("flood", this_program(&flags)?, Some(&log))?;
        attackers.end(Duration::from_secs_f64(self.args.seconds) + FLOOD_LIMIT).await?;
        let said = std::fs::read_to_string(&log)?;
        let tally = said.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        tally.with_context(|| format!("no tally in {said:?}"))
    }

    /// Waits until everybody but the canaries has left.
    async fn relief(&self, toll: &mut Toll) -> anyhow::Result<()> {
        let began = Instant::now();
        let before = toll.before;
        while began.elapsed() < CLOSED {
            let now = self.see().await?;
            toll.after = now;
            if now.files <= before.files {
                toll.files_back = Some(began.elapsed().as_secs_f64());
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        sleep(SETTLE).await;
        toll.after = self.see().await?;
        let Seen { files, memory, .. } = toll.after;
        if toll.files_back.is_none() {
            toll.failures
                .push(format!("{files} open files {CLOSED:?} after the floods, not {}", before.files));
        }
        let ratio = memory / before.memory;
        if self.args.strict_memory && ratio > MEMORY {
            toll.failures.push(format!("memory is {ratio:.2} times that before the floods"));
        }
        Ok(())
    }

    async fn see(&self) -> anyhow::Result<Seen> {
        let look = self.besieged.look()?;
        Ok(Seen {
            memory: look.memory as f64 / 1e6,
            files: look.files,
            tunnels: self.besieged.metric("tunnel_server_tunnels").await?,
            connections: self.besieged.metric("tunnel_server_connections").await?,
        })
    }
}
