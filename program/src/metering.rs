//! Making metrics: names, registration, and a list of them.
//!
//! Each program names its metrics in one place. Names and help texts are interface;
//! docs/METRICS.md documents them, and a test compares it with the list.

mod lane;
mod packets;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    PullingGauge, Registry, Result,
};

pub use lane::LaneMetrics;
pub use packets::{PacketMetrics, Segment};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The name in Prometheus' text format.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its whole name.
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// Its help text.
    pub help: &'static str,
    /// Names of its labels.
    pub labels: Vec<&'static str>,
    /// Upper bounds of a histogram, without the infinite one.
    pub buckets: Vec<f64>,
}

/// Makes metrics whose names begin alike, registers them and remembers them.
#[derive(Debug)]
pub struct Maker<'a> {
    registry: &'a Registry,
    prefix: &'static str,
    made: Vec<Described>,
}

impl<'a> Maker<'a> {
    /// A maker of metrics named `prefix_…`.
    pub const fn new(registry: &'a Registry, prefix: &'static str) -> Self {
        Self { registry, prefix, made: Vec::new() }
    }

    /// The metrics made, in the order of their making.
    pub fn into_made(self) -> Vec<Described> {
        self.made
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// When a metric of this name exists.
    pub fn gauge(&mut self, name: &str, help: &'static str) -> Result<IntGauge> {
        let opts = self.describe(Kind::Gauge, name, help, &[], &[]);
        self.register(IntGauge::with_opts(opts))
    }

    /// A gauge without labels whose value is read at each scrape.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn read_gauge(
        &mut self,
        name: &str,
        help: &'static str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<()> {
        let name = self.describe(Kind::Gauge, name, help, &[], &[]).name;
        self.register(PullingGauge::new(name, help, Box::new(move || read() as f64))).map(drop)
    }

    /// A gauge with labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn gauges(&mut self, name: &str, help: &'static str, labels: &[&'static str]) -> Result<IntGaugeVec> {
        let opts = self.describe(Kind::Gauge, name, help, labels, &[]);
        self.register(IntGaugeVec::new(opts, labels))
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn counter(&mut self, name: &str, help: &'static str) -> Result<IntCounter> {
        let opts = self.describe(Kind::Counter, name, help, &[], &[]);
        self.register(IntCounter::with_opts(opts))
    }

    /// A counter with labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn counters(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
    ) -> Result<IntCounterVec> {
        let opts = self.describe(Kind::Counter, name, help, labels, &[]);
        self.register(IntCounterVec::new(opts, labels))
    }

    /// A histogram without labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn histogram(&mut self, name: &str, help: &'static str, buckets: &[f64]) -> Result<Histogram> {
        let opts = self.describe(Kind::Histogram, name, help, &[], buckets);
        self.register(Histogram::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec())))
    }

    /// A histogram with labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn histograms(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
        buckets: &[f64],
    ) -> Result<HistogramVec> {
        let opts = self.describe(Kind::Histogram, name, help, labels, buckets);
        self.register(HistogramVec::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels))
    }

    fn describe(
        &mut self,
        kind: Kind,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
        buckets: &[f64],
    ) -> Opts {
        let name = format!("{}_{name}", self.prefix);
        let opts = Opts::new(name.clone(), help);
        self.made.push(Described { name, kind, help, labels: labels.to_vec(), buckets: buckets.to_vec() });
        opts
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: Result<M>) -> Result<M> {
        let metric = metric?;
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

/// Holds gauges one up until dropped.
#[derive(Debug)]
pub struct GaugeGuard<const N: usize = 1>([IntGauge; N]);

impl GaugeGuard {
    /// One up.
    pub fn new(gauge: IntGauge) -> Self {
        Self::of([gauge])
    }
}

impl<const N: usize> GaugeGuard<N> {
    /// Each of them one up.
    pub fn of(gauges: [IntGauge; N]) -> Self {
        gauges.iter().for_each(IntGauge::inc);
        Self(gauges)
    }
}

impl<const N: usize> Drop for GaugeGuard<N> {
    fn drop(&mut self) {
        self.0.iter().for_each(IntGauge::dec);
    }
}

/// One number under two names: ours, and the one that Konnectivity gave it.
#[derive(Debug, Clone)]
pub struct Twin([IntGauge; 2]);

impl Twin {
    /// The two names of a number, which begins at 0.
    pub const fn new(ours: IntGauge, theirs: IntGauge) -> Self {
        Self([ours, theirs])
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.iter().for_each(|gauge| gauge.set(value));
    }

    /// One up.
    pub fn inc(&self) {
        self.0.iter().for_each(IntGauge::inc);
    }

    /// One down.
    pub fn dec(&self) {
        self.0.iter().for_each(IntGauge::dec);
    }

    /// One up until the guard is dropped.
    pub fn hold(&self) -> GaugeGuard<2> {
        GaugeGuard::of(self.0.clone())
    }
}
