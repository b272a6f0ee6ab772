//! The stage: the bench, the schedule and the score of one shape.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunnel_client::Connection;

use super::score::{Moved, Score};
use crate::bench::Bench;
use crate::dialing;
use crate::figures::Outcome;
use crate::pace;
use crate::plan::Plan;
use crate::schedule::Random;

/// Operations under way at once: a tunnel that keeps up has fewer, and one that does not must not use up the
/// open files.
const UNDERWAY: usize = 4000;

/// Limit of one operation on a connection of its own: a 16 MB answer on a slow line fits.
const LIMIT: Duration = Duration::from_secs(30);

/// Operations begin at `start`, count from `begin` on, and begin no more at `end`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) start: Instant,
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

impl Window {
    pub(super) fn new(start: Instant, plan: &Plan) -> Self {
        let begin = start + plan.warm_up();
        Self { start, begin, end: begin + plan.seconds() }
    }

    pub(super) fn counts(&self, intended: Instant) -> bool {
        (self.begin..self.end).contains(&intended)
    }
}

pub(super) struct Stage {
    pub(super) bench: Arc<Bench>,
    family: u64,
    score: Mutex<Score>,
}

impl Stage {
    pub(super) fn new(bench: &Arc<Bench>, family: u64) -> anyhow::Result<Self> {
        Ok(Self { bench: Arc::clone(bench), family, score: Mutex::new(Score::new()?) })
    }

    /// The random numbers of one user or one operation.
    pub(super) fn random(&self, number: u64) -> Random {
        Random::member(self.bench.plan.profile.seed, self.family, number)
    }

    /// The scaled count, at least one.
    pub(super) fn scaled(&self, count: f64) -> u64 {
        ((count * self.bench.plan.profile.scale).round() as u64).max(1)
    }

    /// The gap, which shrinks with the scale.
    pub(super) fn gap(&self, gap: Duration) -> Duration {
        gap.div_f64(self.bench.plan.profile.scale)
    }

    pub(super) fn done(&self, window: Window, intended: Instant, moved: Moved) {
        if window.counts(intended) {
            let ended = Instant::now();
            self.score.lock().unwrap_or_else(PoisonError::into_inner).done(intended, ended, moved);
        }
    }

    pub(super) fn lost(&self, window: Window, intended: Instant, why: &str) {
        if window.counts(intended) {
            self.score.lock().unwrap_or_else(PoisonError::into_inner).lost(why);
        }
    }

    pub(super) fn report(&self, name: &str, window: Window, outcome: &mut Outcome) {
        let score = self.score.lock().unwrap_or_else(PoisonError::into_inner);
        score.report(name, window.begin, self.bench.plan.seconds().as_secs_f64(), outcome);
    }

    /// Opens connections to the target, without a command.
    pub(super) async fn open(&self, count: u64) -> anyhow::Result<Vec<Connection>> {
        dialing::open(usize::try_from(count)?, || {
            let bench = Arc::clone(&self.bench);
            async move { bench.open().await }
        })
        .await
    }

    /// Begins an operation at each moment of the schedule, without waiting for earlier ones, and waits for
    /// the last one to end. An operation beyond [`LIMIT`] is an error.
    pub(super) async fn arrivals<O>(
        self: Arc<Self>,
        window: Window,
        schedule: impl Iterator<Item = Duration>,
        operation: impl Fn(Arc<Bench>, Random) -> O,
    ) where
        O: Future<Output = anyhow::Result<Moved>> + Send + 'static,
    {
        let mut underway = JoinSet::new();
        for (number, offset) in (0..).zip(schedule) {
            let intended = window.start + offset;
            if intended >= window.end {
                break;
            }
            pace::until(intended).await;
            while underway.try_join_next().is_some() {}
            if underway.len() >= UNDERWAY {
                self.lost(window, intended, "too many operations under way");
                continue;
            }
            let stage = Arc::clone(&self);
            let operation = operation(Arc::clone(&self.bench), self.random(number));
            underway.spawn(async move {
                match timeout(LIMIT, operation).await {
                    Ok(Ok(moved)) => stage.done(window, intended, moved),
                    Ok(Err(error)) => stage.lost(window, intended, &format!("{error:#}")),
                    Err(_) => stage.lost(window, intended, "not done in time"),
                }
            });
        }
        while underway.join_next().await.is_some() {}
    }
}
