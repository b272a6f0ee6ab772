//! Metrics of relayed connections.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector as _;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};
use tunnel::relay::{Budget, Counts, Ending, Meter};

use super::Maker;

/// Upper bounds of the seconds of a connection, from one request to a day's watch.
const LIFE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

/// Labels and help texts, in which the programs differ.
#[derive(Debug)]
pub struct TrafficTexts<'a> {
    /// Labels of a kind of connections.
    pub labels: &'a [&'static str],
    /// Bytes relayed.
    pub bytes: &'static str,
    /// Ends of connections.
    pub endings: &'static str,
    /// Lifetimes of connections.
    pub seconds: &'static str,
    /// Connections that are stalled.
    pub stalled: &'static str,
}

/// The metrics of relayed connections.
#[derive(Debug)]
pub struct Traffic {
    budget: Arc<Budget>,
    bytes: IntCounterVec,
    endings: IntCounterVec,
    seconds: Histogram,
    stalled: IntGaugeVec,
    stalls: IntCounterVec,
}

impl Traffic {
    /// Makes the metrics.
    ///
    /// # Errors
    /// When metrics of these names exist.
    pub fn make(make: &mut Maker<'_>, texts: &TrafficTexts<'_>) -> Result<Self> {
        let budget = Arc::<Budget>::default();
        let kept = Arc::clone(&budget);
        make.read_gauge(
            "stalled_bytes",
            "Bytes that wait in this process for receivers which have taken nothing for 5 s or longer, or for the rest of a message.",
            move || kept.kept(),
        )?;
        let lane = [texts.labels, &["direction"]].concat();
        let ending = [texts.labels, &["how", "why"]].concat();
        Ok(Self {
            budget,
            bytes: make.counters("bytes_total", texts.bytes, &lane)?,
            endings: make.counters("connections_ended_total", texts.endings, &ending)?,
            seconds: make.histogram("connection_duration_seconds", texts.seconds, LIFE_BUCKETS)?,
            stalled: make.gauges("stalled_connections", texts.stalled, &lane)?,
            stalls: make.counters("stalls_total", "How often a connection became stalled.", &lane)?,
        })
    }

    /// Sets the limit of the bytes of all stalled connections. Without a call there is none.
    pub fn limit_stalled(&self, bytes: u64) {
        self.budget.set_limit(bytes);
    }

    /// The budget of all stalled connections.
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.budget)
    }

    /// Directions of connections that are stalled, of all kinds.
    pub fn stalled(&self) -> u64 {
        let families = self.stalled.collect();
        let gauges = families.iter().flat_map(|family| family.get_metric());
        gauges.map(|metric| metric.get_gauge().get_value() as u64).sum()
    }

    /// Counts a connection that is over. Without an ending, the program stopped. `labels` adds
    /// the labels of its kind to `how` and `why`.
    pub fn closed<const N: usize>(
        &self,
        ending: Option<&Ending>,
        lasted: Duration,
        labels: impl FnOnce(&'static str, &'static str) -> [&'static str; N],
    ) {
        let (how, why) = ending.map_or(("killed", "none"), |ending| (ending.label(), ending.why()));
        self.endings.with_label_values(&labels(how, why)).inc();
        self.seconds.observe(lasted.as_secs_f64());
    }

    /// A meter of connections of this kind, to be kept, because making it looks up series.
    pub fn meter(&self, labels: &[&str], up: Waits, down: Waits) -> Meter {
        let lane = |direction, waits| {
            let labels = [labels, &[direction]].concat();
            Lane {
                bytes: self.bytes.with_label_values(&labels),
                stalled: self.stalled.with_label_values(&labels),
                stalls: self.stalls.with_label_values(&labels),
                waits,
            }
        };
        Meter::new(lane("up", up), lane("down", down), Arc::clone(&self.budget))
    }
}

/// Konnectivity's metrics of writes that are not taken at once, in one direction.
#[derive(Debug, Default)]
pub struct Waits {
    /// Waits under way.
    waiting: Option<IntGauge>,
    /// Seconds of each wait, without writes that are taken at once: reading the clock costs
    /// more than many of them.
    seconds: Option<Histogram>,
}

impl Waits {
    /// Counts waits under way and, with `seconds`, times them.
    pub const fn new(waiting: IntGauge, seconds: Option<Histogram>) -> Self {
        Self { waiting: Some(waiting), seconds }
    }
}

#[derive(Debug)]
struct Lane {
    bytes: IntCounter,
    stalled: IntGauge,
    stalls: IntCounter,
    waits: Waits,
}

impl Counts for Lane {
    fn took(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    fn wait_began(&self) {
        self.waits.waiting.iter().for_each(IntGauge::inc);
    }

    fn wait_ended(&self, waited: Duration) {
        self.waits.waiting.iter().for_each(IntGauge::dec);
        self.waits.seconds.iter().for_each(|seconds| seconds.observe(waited.as_secs_f64()));
    }

    fn stall_began(&self) {
        self.stalled.inc();
        self.stalls.inc();
    }

    fn stall_ended(&self) {
        self.stalled.dec();
    }
}
