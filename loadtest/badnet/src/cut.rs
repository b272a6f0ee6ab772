//! New dials where some packets never arrive. The agent chooses its link, so this measures the choice.

use std::ops::Range;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Link, Programs, say, write_json};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tunnel_client::Connection;

use crate::filter::Filter;
use crate::line_args::{LineArgs, time};
use crate::rig::Rig;

/// Time between the beginnings of two dials.
const DIAL_EVERY: Duration = Duration::from_millis(500);

/// Limit of a dial with its transfer: a person has given up by then.
const DIAL_LIMIT: Duration = Duration::from_secs(35);

/// Bytes of the transfer that each dial makes where large packets vanish.
const TRANSFER: usize = 256 * 1024;

/// Limit of that transfer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);

/// Longest time without a dial that worked, with `--strict`.
const OUTAGE: Duration = Duration::from_secs(20);

/// Time for the stream that was open from the beginning to answer, once all packets arrive again: QUIC's
/// back-off may wait for as long as the cut lasted.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct CutArgs {
    /// The packets that vanish.
    filter: Filter,
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    programs: Programs,
    /// Length of the cut.
    #[arg(long, value_name = "TIME", default_value = "40s", value_parser = time)]
    time: Duration,
    /// Fails if no dial works for twenty seconds, or the stream from before is lost where it need not be.
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Serialize)]
struct Figures {
    dials: usize,
    failed: usize,
    /// Longest time without a dial that worked.
    outage_s: f64,
    /// Whether the stream that was open from the beginning answers afterwards.
    stream_lives: bool,
    /// Tunnels that the agent made, on each link.
    tunnels_quic: usize,
    tunnels_h2: usize,
}

/// True unless `--strict` does not hold.
pub(crate) async fn run(args: &CutArgs) -> anyhow::Result<bool> {
    let mut programs = args.programs.clone();
    programs.agent_arg.push("--transport=auto".to_owned());
    let rig = Rig::start(args.line.network(0.0)?, &programs, &[Link::Quic]).await?;
    let mut old = rig.connect(Link::Quic, "echo").await?;
    anyhow::ensure!(answers(&mut old).await, "no echo before the cut");
    rig.network.line.filter(Some(args.filter));
    let began = Instant::now();
    let dials = dial(&rig, args, began).await;
    rig.network.line.filter(None);
    let figures = figures(&rig, &dials, began..began + args.time, answers(&mut old).await);
    report(args, &figures).with_context(|| rig.last_words())
}

/// The outcome of a dial: when it worked, if it did.
type Dial = Option<Instant>;

/// Dials at an interval, whether earlier ones are answered or not, until the cut ends.
async fn dial(rig: &Rig, args: &CutArgs, began: Instant) -> Vec<Dial> {
    let mut dials = JoinSet::new();
    let is_narrow = args.filter == Filter::Narrow;
    let mut next = began;
    while next < began + args.time {
        let connecting = rig.connecting(Link::Quic, if is_narrow { "zeros" } else { "echo" });
        dials.spawn(async move {
            let works = async {
                let mut connection = connecting.await.ok()?;
                let works =
                    if is_narrow { transfers(&mut connection).await } else { answers(&mut connection).await };
                works.then(Instant::now)
            };
            timeout(DIAL_LIMIT, works).await.ok().flatten()
        });
        next += DIAL_EVERY;
        sleep_until(next).await;
    }
    // Dials of the last seconds have their chance, too.
    sleep(Duration::from_secs(1)).await;
    let mut outcomes = Vec::new();
    while let Some(Ok(outcome)) = dials.try_join_next() {
        outcomes.push(outcome);
    }
    outcomes.extend(std::iter::repeat_n(None, dials.len()));
    outcomes
}

async fn answers(connection: &mut Connection) -> bool {
    let echo = async {
        connection.write_all(b"x").await.ok()?;
        connection.read_u8().await.ok()
    };
    timeout(ANSWER_LIMIT, echo).await == Ok(Some(b'x'))
}

async fn transfers(connection: &mut Connection) -> bool {
    let mut bytes = vec![0; TRANSFER];
    matches!(timeout(TRANSFER_LIMIT, connection.read_exact(&mut bytes)).await, Ok(Ok(_)))
}

fn figures(rig: &Rig, dials: &[Dial], cut: Range<Instant>, stream_lives: bool) -> Figures {
    let mut worked: Vec<Instant> = dials.iter().flatten().copied().collect();
    worked.sort();
    let ends = [&[cut.start], &worked[..], &[cut.end]].concat();
    let outage = ends.windows(2).map(|two| two[1].saturating_duration_since(two[0])).max();
    let made = rig.said(Link::Quic, " connected server=");
    let on_quic = made.iter().filter(|line| line.contains("link=\"quic\"")).count();
    Figures {
        dials: dials.len(),
        failed: dials.len() - worked.len(),
        outage_s: outage.unwrap_or_default().as_secs_f64(),
        stream_lives,
        tunnels_quic: on_quic,
        tunnels_h2: made.len() - on_quic,
    }
}

fn report(args: &CutArgs, figures: &Figures) -> anyhow::Result<bool> {
    let Figures { dials, failed, outage_s, stream_lives, tunnels_quic, tunnels_h2 } = figures;
    say("| cut | dials | failed | longest outage s | old stream | tunnels quic | tunnels h2 |");
    say("|---|---:|---:|---:|---|---:|---:|");
    let old = if *stream_lives { "lives" } else { "lost" };
    let name = format!("{:?}", args.filter).to_lowercase();
    say(&format!("| {name} | {dials} | {failed} | {outage_s:.1} | {old} | {tunnels_quic} | {tunnels_h2} |"));
    if let Some(path) = &args.line.json {
        write_json(path, figures)?;
    }
    // A router that forgets a flow ends the streams in it.
    let stream_holds = *stream_lives || args.filter == Filter::Flows;
    Ok(!args.strict || (stream_holds && *outage_s <= OUTAGE.as_secs_f64()))
}
