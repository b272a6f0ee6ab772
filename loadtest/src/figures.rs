//! The figures of a scenario, and how they are counted.

use hdrhistogram::Histogram;
use measuring_kit::Score;
use serde::Serialize;
use tokio::time::Instant;

use crate::process::Process;

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

/// The result of one scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    /// Checks that failed, in words.
    pub(crate) failures: Vec<String>,
    /// Trials, for docs/SCORECARD.md.
    #[serde(skip)]
    pub(crate) scores: Vec<Score>,
}

impl Outcome {
    pub(crate) fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure { name: name.into(), value, unit });
    }

    /// Adds median and tail of a histogram of nanoseconds, in microseconds.
    pub(crate) fn add_latency(&mut self, name: &str, histogram: &Histogram<u64>) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let nanoseconds = histogram.value_at_quantile(quantile);
            self.add(format!("{name} {label}"), nanoseconds as f64 / 1e3, "us");
        }
    }

    /// Adds the CPU seconds of every watched process, divided by `amount`, in units of `1 / scale` seconds.
    pub(crate) fn add_cpu(&mut self, prefix: &str, used: &Used, amount: f64, scale: f64, unit: &'static str) {
        if amount <= 0.0 {
            return;
        }
        for (name, seconds) in &used.cpu {
            self.add(format!("{prefix}cpu {name}"), seconds * scale / amount, unit);
        }
    }

    /// Adds trials of a kind, of which some were lost.
    pub(crate) fn tried(&mut self, what: &str, tried: u64, lost: u64) {
        self.scores.push(Score { what: what.to_owned(), tried, lost });
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }
}

/// An empty histogram of nanoseconds, up to a minute, three digits.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// Records the time since `start`.
pub(crate) fn record(histogram: &mut Histogram<u64>, start: Instant) {
    let nanoseconds = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    histogram.saturating_record(nanoseconds.max(1));
}

/// Counts CPU time from now on.
pub(crate) struct Meter<'a> {
    processes: &'a [Process],
    cpu: Vec<f64>,
    start: Instant,
}

/// The CPU time between start and stop of a meter.
#[derive(Debug, Clone)]
pub(crate) struct Used {
    pub(crate) seconds: f64,
    /// CPU seconds per process.
    pub(crate) cpu: Vec<(String, f64)>,
}

impl<'a> Meter<'a> {
    pub(crate) fn start(processes: &'a [Process]) -> anyhow::Result<Self> {
        let cpu = processes.iter().map(Process::cpu_seconds).collect::<Result<_, _>>()?;
        Ok(Self { processes, cpu, start: Instant::now() })
    }

    pub(crate) fn stop(self) -> anyhow::Result<Used> {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut cpu = Vec::with_capacity(self.cpu.len());
        for (process, before) in self.processes.iter().zip(self.cpu) {
            // A thread that has ended takes its CPU time with it.
            cpu.push((process.name.clone(), (process.cpu_seconds()? - before).max(0.0)));
        }
        Ok(Used { seconds, cpu })
    }
}
