//! Counts and latencies of the operations of one shape.

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::figures::{Outcome, histogram};
use crate::reasons::Reasons;

/// Bytes that an operation moved, as its client counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) up: u64,
    pub(super) down: u64,
}

/// The operations that were due within the window.
#[derive(Debug)]
pub(super) struct Score {
    done: u64,
    errors: Reasons,
    moved: Moved,
    /// Nanoseconds from the moment at which an operation was due.
    times: Histogram<u64>,
    /// When the last one ended.
    last: Option<Instant>,
}

impl Score {
    pub(super) fn new() -> anyhow::Result<Self> {
        let (errors, moved) = (Reasons::default(), Moved::default());
        Ok(Self { done: 0, errors, moved, times: histogram()?, last: None })
    }

    pub(super) fn done(&mut self, intended: Instant, ended: Instant, moved: Moved) {
        self.done += 1;
        let nanoseconds = ended.saturating_duration_since(intended).as_nanos();
        self.times.saturating_record(u64::try_from(nanoseconds).unwrap_or(u64::MAX).max(1));
        self.moved.up += moved.up;
        self.moved.down += moved.down;
        self.last = self.last.max(Some(ended));
    }

    pub(super) fn lost(&mut self, why: &str) {
        self.errors.count(why);
    }

    /// Adds the figures of a window of `seconds` from `begin` on.
    pub(super) fn report(&self, name: &str, begin: Instant, seconds: f64, outcome: &mut Outcome) {
        let prefix = if name.is_empty() { String::new() } else { format!("{name} ") };
        let lost = self.errors.total();
        let intended = self.done + lost;
        // Operations that end after the window stretch the time.
        let took = self.last.map_or(0.0, |last| last.saturating_duration_since(begin).as_secs_f64());
        outcome.add(format!("{prefix}rate intended"), intended as f64 / seconds, "/s");
        outcome.add(format!("{prefix}rate achieved"), self.done as f64 / took.max(seconds), "/s");
        outcome.add_latency(&format!("{prefix}latency"), &self.times);
        outcome.add(format!("{prefix}latency max"), self.times.max() as f64 / 1e3, "us");
        outcome.add(format!("{prefix}errors"), lost as f64, "operations");
        outcome.add(format!("{prefix}bytes up"), self.moved.up as f64 / 1e6, "MB");
        outcome.add(format!("{prefix}bytes down"), self.moved.down as f64 / 1e6, "MB");
        if lost > 0 {
            outcome.fail(format!("{prefix}{lost} of {intended} operations failed: {}", self.errors));
        }
        if intended == 0 {
            outcome
                .fail(format!("{prefix}nothing began within {seconds} s; take longer, or a larger --scale"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn value(outcome: &Outcome, name: &str) -> f64 {
        outcome.figures.iter().find(|figure| figure.name == name).unwrap().value
    }

    #[test]
    fn latency_counts_from_the_intended_start() {
        let mut score = Score::new().unwrap();
        let begin = Instant::now();
        let ms = Duration::from_millis;
        // One in a hundred waits a second for its turn, as behind a stall.
        for number in 0..100u32 {
            let intended = begin + ms(10) * number;
            let late = if number == 50 { ms(1000) } else { ms(2) };
            score.done(intended, intended + late, Moved { up: 10, down: 1000 });
        }
        let mut outcome = Outcome::default();
        score.report("", begin, 1.0, &mut outcome);
        assert!((1990.0..2010.0).contains(&value(&outcome, "latency p50")));
        assert!(value(&outcome, "latency max") > 990_000.0);
        assert!(value(&outcome, "latency p99.9") > 990_000.0);
        assert_eq!(value(&outcome, "rate intended"), 100.0);
        // The one that was late ended half a second after the window.
        assert!((66.0..67.0).contains(&value(&outcome, "rate achieved")));
        assert!((value(&outcome, "bytes down") - 0.1).abs() < 1e-9);
        assert!(outcome.failures.is_empty());
    }

    #[test]
    fn errors_are_counted_by_reason() {
        let mut score = Score::new().unwrap();
        for number in 0..5 {
            score.lost(&format!("dial tcp 10.0.0.{number}:80: refused"));
        }
        score.lost("another");
        let mut outcome = Outcome::default();
        score.report("pages", Instant::now(), 1.0, &mut outcome);
        assert_eq!(value(&outcome, "pages errors"), 6.0);
        assert_eq!(value(&outcome, "pages rate achieved"), 0.0);
        let text = "pages 6 of 6 operations failed: 1 x another; 5 x dial tcp #.#.#.#:#: refused";
        assert_eq!(outcome.failures, [text]);
    }

    #[test]
    fn a_window_without_operations_is_told() {
        let mut outcome = Outcome::default();
        Score::new().unwrap().report("", Instant::now(), 1.0, &mut outcome);
        assert!(outcome.failures[0].contains("nothing began"));
    }
}
