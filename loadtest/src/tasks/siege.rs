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
use crate::siege::ground::Ground;
use crate::siege::guest::{BYSTANDER, Guest};
use crate::siege::toll::{Entry, Limits, Seen, Toll};

/// Time between two pieces of a canary. A shorter one would keep two cores busy with a thousand canaries.
const PAUSE: Duration = Duration::from_secs(1);

/// Dials and joins of bystanders per second, over all frontends and both links.
const DIALS: f64 = 16.0;
const JOINS: f64 = 2.0;

/// Time for an attacker's process to begin and to end, beside its flood.
const FLOOD_LIMIT: Duration = Duration::from_secs(20);

/// Streams that the server has had before it is looked at, and the flood of dials that were given up. Libraries keep the
/// tables of the most streams that a tunnel has had at once: a server has them that has lived through a node's failure.
const WARM: usize = 2000;
const GIVEN_UP: &str = "black-holes";

/// Pause before the server is looked at: the allocator gives memory back within ten seconds.
const SETTLE: Duration = Duration::from_secs(12);

/// Length of a stall of the log, as a part of the limit of a round trip.
const STALL: f64 = 2.0;

/// Longest time for the server to close what the floods left, and to give back their memory: handshakes,
/// greetings and requests have ten seconds, silent tunnels some more.
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
    /// Longest round trip of a canary, dial and join beside a flood; some floods have three times it. Programs without
    /// optimisation need 0.4 s on two cores, and 0.8 s beside compilers.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 1200.0, value_parser = number_within(1.0, 60_000.0))]
    max_ms: f64,
    /// Longest median of the canaries' round trips beside a flood; as above, of 0.1 and 0.2 s.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 300.0, value_parser = number_within(1.0, 60_000.0))]
    max_median_ms: f64,
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
        let besieged = Arc::new(Besieged::start(&args.programs, logs).await?);
        let streams = besieged.streams(args.canaries).await?;
        let canaries = Canaries::release(streams, PAUSE)?;
        Ok(Self { args, besieged, canaries, progress })
    }

    async fn endure(self, floods: &[&'static Flood]) -> anyhow::Result<Toll> {
        // Memory that the first bystanders need once is taken before the first look.
        let (warmed, ..) = self.bystanders(self.besieged.burst(WARM)).await?;
        warmed?;
        self.attack(Flood::named(GIVEN_UP)?).await?;
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
        let limits = Limits { median_ms: self.args.max_median_ms, max_ms: self.args.max_ms };
        Ok(Entry::new(flood, limits, tally?, &noticed, [&dials, &joins], peak))
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
                let (link, token) = (link.context("no link")?, besieged.api.issue());
                Box::pin(Guest::with_token(&besieged.ground, link, BYSTANDER, "bystander", "", &token)).await
            }
        };
        let dialling = Box::pin(dials(dial, DIALS, Arc::clone(&stop)));
        let joining = Box::pin(dials(join, JOINS, Arc::clone(&stop)));
        let (result, dials, joins) = tokio::join!(event, dialling, joining);
        Ok((result, dials?, joins?))
    }

    /// Runs the attackers' process.
    async fn attack(&self, flood: &Flood) -> anyhow::Result<Tally> {
        let seconds = self.seconds(flood);
        let ground = serde_json::to_string(&Ground { seconds, ..self.besieged.ground.clone() })?;
        let flags = ["flood".to_owned(), flood.name.to_owned(), format!("--ground={ground}")];
        let log = self.besieged.log_dir().join(format!("flood-{}.log", flood.name));
        let mut attackers = Child::start("flood", this_program(&flags)?, Some(&log))?;
        attackers.end(Duration::from_secs_f64(seconds) + FLOOD_LIMIT).await?;
        let said = std::fs::read_to_string(&log)?;
        let tally = said.lines().rev().find_map(|line| serde_json::from_str(line).ok());
        tally.with_context(|| format!("no tally in {said:?}"))
    }

    /// A log that stands still for less than a round trip may take shows nothing.
    fn seconds(&self, flood: &Flood) -> f64 {
        let stall = if flood.stalls_log { STALL * self.args.max_ms / 1e3 } else { 0.0 };
        self.args.seconds.max(stall)
    }

    /// Waits until everybody but the canaries has left, and their memory is given back.
    async fn relief(&self, toll: &mut Toll) -> anyhow::Result<()> {
        let began = Instant::now();
        let before = toll.before;
        loop {
            let (now, elapsed) = (self.see().await?, began.elapsed());
            toll.after = now;
            if now.files <= before.files {
                toll.files_back.get_or_insert(elapsed.as_secs_f64());
            }
            if now.memory <= before.memory * MEMORY {
                toll.memory_back.get_or_insert(elapsed.as_secs_f64());
            }
            if (toll.files_back.is_some() && toll.memory_back.is_some()) || elapsed > CLOSED {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        let Seen { files, memory, .. } = toll.after;
        let late = format!("{CLOSED:?} after the floods");
        if toll.files_back.is_none() {
            toll.failures.push(format!("{files} open files {late}, not {}", before.files));
        }
        if toll.memory_back.is_none() {
            let ratio = memory / before.memory;
            toll.failures.push(format!("memory is {ratio:.2} times that before {late}"));
        }
        Ok(())
    }

    async fn see(&self) -> anyhow::Result<Seen> {
        let look = self.besieged.look()?;
        Ok(Seen {
            memory: look.memory as f64 / 1e6,
            written: look.written as f64 / 1e6,
            files: look.files,
            tunnels: self.besieged.metric("tunnel_server_tunnels").await?,
            connections: self.besieged.metric("tunnel_server_connections").await?,
        })
    }
}
