//! Plays mutations, and judges what is under test.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet, LocalSet, spawn_local};
use tokio::time::Instant;

use crate::lane::Lane;
use crate::mutate::mutated;
use crate::play::{Manner, Played};
use crate::session::{Kept, Session};
use crate::world::{Held, World, panics_in_product};

/// Mutations between two correct sessions, which have to succeed. More find lasting damage later; fewer are
/// fewer mutations.
const CORRECT: u64 = 40;

/// Sessions of a lane that linger at the same time, where several may be played. They wait for most of it.
const LINGERERS: u64 = 16;

/// The mutations to play.
#[derive(Debug, Clone)]
pub struct Course {
    /// Of all mutations.
    pub seed: u64,
    /// Numbers of mutations that come next.
    pub next: BTreeMap<Lane, u64>,
    /// Numbers where each lane ends.
    pub end: u64,
    /// When all lanes end.
    pub until: Instant,
    /// Whether peers stay until the other end ends them.
    pub lingering: bool,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where; `None` if it shows only after all lanes.
    pub lane: Option<Lane>,
    /// The mutation that showed it.
    pub number: Option<u64>,
    /// The broken promise.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(lane) = self.lane {
            write!(f, "{lane} ")?;
        }
        if let Some(number) = self.number {
            write!(f, "number {number} ")?;
        }
        f.write_str(&self.what)
    }
}

/// The mutations that were played, by lane, and the findings.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Mutations.
    pub tried: BTreeMap<Lane, u64>,
    /// The broken promises.
    pub findings: Vec<Finding>,
}

/// Plays a recorded session, which has to succeed.
///
/// # Errors
/// With what did not happen.
pub async fn judge_recorded(world: &World, lane: Lane, session: &Session) -> Result<(), String> {
    let name = &session.name;
    let outcome = world.play(lane, &session.steps, Manner::PATIENT).await;
    let outcome = outcome.map_err(|error| format!("{name}: {error}"))?;
    if let Some(step) = outcome.played.missed.checked_sub(1) {
        let step = &session.steps[step];
        return Err(format!("{name}: in vain waited before: {step}; {outcome:?}"));
    }
    match &session.expect {
        Some(words) if !outcome.dials.iter().any(|dial| dial.contains(words)) => {
            Err(format!("{name}: no dial ended with {words:?}: {:?}", outcome.dials))
        }
        Some(_) | None => Ok(()),
    }
}

/// Plays a course in worlds, all lanes at the same time, and advances it. Then the worlds have to be as
/// they were when they were started.
///
/// # Errors
/// When the corpus cannot be read.
pub async fn run(worlds: &[(Arc<World>, Held)], course: &mut Course) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut lanes = JoinSet::new();
    for (&lane, &first) in &course.next {
        let recorded: Arc<[Session]> = Session::kept(Kept::Recorded, lane)?.into();
        let several = course.lingering && !lane.waits_for_an_agent();
        let at_once = if several { LINGERERS } else { 1 };
        let players = worlds.iter().flat_map(|(world, _)| (0..at_once).map(move |_| world));
        let stride = worlds.len() as u64 * at_once;
        for (offset, world) in (0..).zip(players) {
            let (recorded, course, world) = (Arc::clone(&recorded), course.clone(), Arc::clone(world));
            let player = Player { world, lane, recorded, course, stride };
            lanes.spawn(async move { (lane, player.play(first + offset).await) });
        }
    }
    while let Some(ended) = lanes.join_next().await {
        match ended {
            Ok((lane, (tried, finding))) => {
                *tally.tried.entry(lane).or_default() += tried;
                tally.findings.extend(finding);
            }
            Err(error) => tally.found(&text_of(error)),
        }
    }
    for (lane, next) in &mut course.next {
        *next += tally.tried.get(lane).copied().unwrap_or_default();
    }
    for (world, held) in worlds {
        let (world, held) = (Arc::clone(world), held.clone());
        let look = async move {
            world.canaries_sing().await;
            world.wait_until_given_back(&held).await;
        };
        // In a task of its own, since it panics.
        let looked = LocalSet::new().run_until(async { spawn_local(look).await }).await;
        if let Err(error) = looked {
            tally.found(&text_of(error));
        }
    }
    for panic in panics_in_product() {
        tally.found(&format!("panic: {panic}"));
    }
    Ok(tally)
}

impl Tally {
    fn found(&mut self, what: &str) {
        self.findings.push(Finding { lane: None, number: None, what: what.to_owned() });
    }
}

/// Plays mutations of a lane, one after the other.
struct Player {
    world: Arc<World>,
    lane: Lane,
    recorded: Arc<[Session]>,
    course: Course,
    stride: u64,
}

impl Player {
    /// Returns how many were played, and the first finding.
    async fn play(self, first: u64) -> (u64, Option<Finding>) {
        let Self { world, lane, recorded, course, stride } = self;
        let mut tried = 0;
        while first + tried * stride < course.end && Instant::now() < course.until {
            let number = first + tried * stride;
            let found = |what| Some(Finding { lane: Some(lane), number: Some(number), what });
            if !course.lingering && tried % CORRECT == CORRECT - 1 {
                let session = &recorded[number as usize % recorded.len()];
                if let Err(what) = judge_recorded(&world, lane, session).await {
                    return (tried, found(format!("no correct session after it: {what}")));
                }
            }
            let manner = if course.lingering { Manner::LINGERING } else { Manner::HASTY };
            let steps = mutated(lane, &recorded, course.seed, number);
            tried += 1;
            match world.play(lane, &steps, manner).await {
                Err(error) => return (tried, found(format!("no handshake: {error}"))),
                Ok(outcome) if course.lingering && !is_over(lane, outcome.played) => {
                    return (tried, found(format!("neither answered nor ended: {:?}", outcome.played)));
                }
                Ok(_) => {}
            }
        }
        (tried, None)
    }
}

/// The words of a panic.
fn text_of(error: JoinError) -> String {
    let panic = match error.try_into_panic() {
        Ok(panic) => panic,
        Err(error) => return error.to_string(),
    };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// Whether a peer that lingered was ended, or got an answer where that is enough.
const fn is_over(lane: Lane, played: Played) -> bool {
    let answers = match lane {
        // They give no signs of life.
        Lane::AgentQuic | Lane::AgentH2 | Lane::AgentKonnectivity => u32::MAX,
        Lane::ServerH2 | Lane::ServerKonnectivity => u32::MAX,
        // Its acknowledgements are such signs.
        Lane::ServerQuic => 1,
        Lane::ClientConnect => 1,
        // The settings are none.
        Lane::ClientGrpc => 2,
    };
    played.ended || played.events >= answers
}
