//! Makes the events happen, each until it is over.

use std::fs;
use std::time::Duration;

use jiff::{Span, Timestamp};
use measuring_kit::Child;
use tokio::time::{Instant, sleep};

use super::api::Mood;
use super::clock::SEEN;
use super::event::{Kind, Outcome};
use super::names::names;
use super::world::{NEWCOMER, World, victims};
use crate::emulator::Emulator;
use crate::filter::{Filter, Loss, Protocol, Ways};
use crate::line::Conditions;

/// Length of most events. Longer ones end tunnels on TCP, whose limit of silence is 15 s: the last sign of life is up to
/// 5 s older than the event, and the next retransmission comes up to twice its length after its beginning.
const SHORT: Duration = Duration::from_secs(5);

/// Longer than a tunnel on TCP may be silent (15 s), shorter than one on QUIC (70 s).
const LONG: Duration = Duration::from_secs(20);

/// Length of slowness: until queues are full.
const SLOW: Duration = Duration::from_secs(8);

/// Longest packet of a narrow path, in bytes: QUIC's smallest full datagram has 1,228.
const NARROW: usize = 1200;

/// The victims' line while it is throttled, in bits per second, and the longest wait in its queue.
const THROTTLE: (u64, Duration) = (1_000_000, Duration::from_millis(300));

/// How long a program is dead.
const DEAD: Duration = Duration::from_secs(1);

/// Time for strangers to take all files: longer than some are turned away, shorter than a frontend waits for a
/// request (10 s).
const SIEGE: Duration = Duration::from_secs(6);

/// Longest time after it: a busy machine lets the strangers come late.
const TAKEN: Duration = Duration::from_secs(10);

/// Files that may be left to the server under siege: those of dials that end at the moment.
const FILES_LEFT: usize = 16;

/// Time in which the log fills the rest of its last block.
const LAST_BLOCK: Duration = Duration::from_secs(3);

/// Time for the log to go on once there is room.
const LOG_RETURNS: Duration = Duration::from_secs(10);

/// A jump lasts longer than the programs' looks at credentials are apart (10 s).
const JUMP: Duration = Duration::from_secs(12);

/// Time after the jump within which tunnels of lapsed credentials end.
const GRACE: Duration = Duration::from_secs(12);

/// How long the API has each illness: some tries of an agent.
const ILL: Duration = Duration::from_secs(2);

/// Time for an agent to be admitted once the API is well: its back-off (10 s), and some.
const ADMITTED: Duration = Duration::from_secs(20);

pub(crate) async fn perform(kind: Kind, world: &mut World) -> anyhow::Result<Outcome> {
    let line = &world.ground.network.line;
    match kind {
        Kind::Kill => kill(world).await?,
        Kind::Stop => stop(victims().map(|agent| &world.agents[agent]), SHORT).await?,
        Kind::StopLong => stop(victims().map(|agent| &world.agents[agent]), LONG).await?,
        Kind::StopServer => stop([&world.server], SHORT).await?,
        Kind::CutUp => filter(line, longer_than(0, Ways::Up)).await,
        Kind::CutDown => filter(line, longer_than(0, Ways::Down)).await,
        Kind::CutBoth => filter(line, longer_than(0, Ways::Both)).await,
        Kind::Rebind => line.rebind(),
        Kind::Forget => filter(line, Filter::Flows).await,
        Kind::Narrow => filter(line, longer_than(NARROW, Ways::Both)).await,
        Kind::Throttle => throttle(world).await,
        Kind::Files => return files(world).await,
        Kind::Disk => return disk(world).await,
        Kind::Clock => return clock(world).await,
        Kind::Api => return api(world).await,
        Kind::Names => return names(world).await,
    }
    Ok(Outcome::default())
}

async fn kill(world: &mut World) -> anyhow::Result<()> {
    for agent in victims() {
        world.agents[agent].kill()?;
    }
    sleep(DEAD).await;
    for agent in victims() {
        world.agents[agent] = world.ground.start_agent(agent)?;
    }
    Ok(())
}

async fn stop(programs: impl IntoIterator<Item = &Child> + Clone, time: Duration) -> anyhow::Result<()> {
    for program in programs.clone() {
        program.signal("STOP")?;
    }
    sleep(time).await;
    for program in programs {
        program.signal("CONT")?;
    }
    Ok(())
}

/// All packets that are longer than so many bytes.
fn longer_than(bytes: usize, ways: Ways) -> Filter {
    Filter::Loss(Loss { protocol: Protocol::Any, ways, longer_than: bytes })
}

async fn filter(line: &Emulator, filter: Filter) {
    line.filter(&[filter]);
    sleep(SHORT).await;
    line.filter(&[]);
}

async fn throttle(world: &World) {
    let (line, before) = (&world.ground.network.line, world.ground.conditions);
    line.set(Conditions { rate: Some(THROTTLE.0), queue: THROTTLE.1, ..before });
    sleep(SLOW).await;
    line.set(before);
}

async fn files(world: &World) -> anyhow::Result<Outcome> {
    let limit = usize::try_from(world.ground.files)?;
    let strangers = world.ground.start_strangers(world.ground.files)?;
    sleep(SIEGE).await;
    let end = Instant::now() + TAKEN;
    let mut taken = world.usage()?.files;
    while taken + FILES_LEFT < limit && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
        taken = world.usage()?.files;
    }
    drop(strangers);
    let note = Some(format!("{taken} of {limit} files"));
    let mut outcome = Outcome { note, ..Outcome::default() };
    if taken + FILES_LEFT < limit {
        outcome.faults.push("strangers did not take all files".to_owned());
    }
    Ok(outcome)
}

async fn disk(world: &World) -> anyhow::Result<Outcome> {
    let Some(disk) = &world.ground.disk else { anyhow::bail!("no disk") };
    let log = world.ground.log("server");
    let size = || anyhow::Ok(fs::metadata(&log)?.len());
    disk.fill()?;
    sleep(LAST_BLOCK).await;
    let full = size()?;
    sleep(SHORT - LAST_BLOCK).await;
    let mut outcome = Outcome::default();
    if size()? > full {
        outcome.faults.push("the disk was not full".to_owned());
    }
    disk.free()?;
    let end = Instant::now() + LOG_RETURNS;
    while size()? <= full && Instant::now() < end {
        sleep(Duration::from_millis(50)).await;
    }
    if size()? <= full {
        outcome.faults.push("the log does not go on".to_owned());
    }
    Ok(outcome)
}

async fn clock(world: &World) -> anyhow::Result<Outcome> {
    let Some(clock) = &world.ground.clock else {
        let note = Some("not run: libfaketime is not installed".to_owned());
        return Ok(Outcome { note, missing: true, ..Outcome::default() });
    };
    clock.jump("+1h")?;
    sleep(JUMP).await;
    let ahead = last_time(world)?.is_some_and(|time| time > Timestamp::now() + Span::new().minutes(30));
    clock.jump("-1h")?;
    sleep(SEEN * 3).await;
    let behind = last_time(world)?.is_some_and(|time| time < Timestamp::now() - Span::new().minutes(30));
    clock.jump("+0")?;
    sleep(SEEN + GRACE).await;
    let mut outcome = Outcome::default();
    if !ahead || !behind {
        outcome.faults.push("the clocks did not jump".to_owned());
    }
    Ok(outcome)
}

/// The time of the last line in the server's log.
fn last_time(world: &World) -> anyhow::Result<Option<Timestamp>> {
    let log = fs::read_to_string(world.ground.log("server"))?;
    Ok(log.lines().last().and_then(|line| line.split_whitespace().next()?.parse().ok()))
}

async fn api(world: &mut World) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut newcomer = None;
    for mood in Mood::ill() {
        world.api.tell(&mood.name())?;
        newcomer = Some(world.ground.start_newcomer(mood)?);
        sleep(ILL).await;
        if world.works(&NEWCOMER, Duration::ZERO).await {
            outcome.faults.push(format!("an agent is admitted while the API is {}", mood.name()));
        }
    }
    world.api.tell(&Mood::Well.name())?;
    let began = Instant::now();
    if world.works(&NEWCOMER, ADMITTED).await {
        outcome.note = Some(format!("new agent in after {:.1} s", began.elapsed().as_secs_f64()));
    } else {
        outcome.faults.push(format!("a new agent is not admitted in {ADMITTED:?}"));
    }
    drop(newcomer);
    Ok(outcome)
}
