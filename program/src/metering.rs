//! Making metrics: names, registration, and a list of them.
//!
//! Each program names its metrics in one place. Names and help texts are interface;
//! docs/METRICS.md documents them, and a test compares it with the list.

mod packets;
mod sockets;
mod traffic;

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    PullingGauge, Registry, Result,
};

pub use packets::PacketMetrics;
pub use sockets::SocketMetrics;
pub use traffic::{Traffic, TrafficTexts, Waits};

/// Upper bounds of the seconds of a dial: from one on the same machine to the limit of
/// dials, 30 s.
pub const DIAL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];

/// The description of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The whole name.
    pub name: String,
    /// The type in Prometheus' text format.
    pub kind: &'static str,
    /// The help text.
    pub help: &'static str,
    /// Names of the labels.
    pub labels: Vec<&'static str>,
    /// Upper bounds of a histogram's buckets, without the infinite one.
    pub buckets: Vec<f64>,
}

/// Makes metrics whose names have one prefix, registers them and lists them.
#[derive(Debug)]
pub struct Maker<'a> {
    registry: &'a Registry,
    prefix: &'static str,
    made: Vec<Described>,
}

impl<'a> Maker<'a> {
    /// A maker of metrics named `PREFIX_NAME`.
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
        let opts = self.describe("gauge", name, help, &[], &[]);
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
        let name = self.describe("gauge", name, help, &[], &[]).name;
        self.register(PullingGauge::new(name, help, Box::new(move || read() as f64))).map(drop)
    }

    /// A gauge with labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn gauges(&mut self, name: &str, help: &'static str, labels: &[&'static str]) -> Result<IntGaugeVec> {
        let opts = self.describe("gauge", name, help, labels, &[]);
        self.register(IntGaugeVec::new(opts, labels))
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn counter(&mut self, name: &str, help: &'static str) -> Result<IntCounter> {
        let opts = self.describe("counter", name, help, &[], &[]);
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
        let opts = self.describe("counter", name, help, labels, &[]);
        self.register(IntCounterVec::new(opts, labels))
    }

    /// A histogram without labels.
    ///
    /// # Errors
    /// As [`Maker::gauge`].
    pub fn histogram(&mut self, name: &str, help: &'static str, buckets: &[f64]) -> Result<Histogram> {
        let opts = self.describe("histogram", name, help, &[], buckets);
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
        let opts = self.describe("histogram", name, help, labels, buckets);
        self.register(HistogramVec::new(HistogramOpts::from(opts).buckets(buckets.to_vec()), labels))
    }

    fn describe(
        &mut self,
        kind: &'static str,
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

/// Counts and latencies of requests to the Kubernetes API.
#[derive(Debug)]
pub struct RequestMetrics {
    answers: IntCounterVec,
    seconds: Option<HistogramVec>,
}

impl RequestMetrics {
    /// `answers` has labels for status and reason, `seconds` has one for the status.
    pub const fn new(answers: IntCounterVec, seconds: Option<HistogramVec>) -> Self {
        Self { answers, seconds }
    }

    /// Counts a request that is over. Status and reason are 200 and "" on success; the
    /// status is 0 without an answer.
    pub fn answered(&self, status: u16, reason: &str, took: Duration) {
        let status = status.to_string();
        self.answers.with_label_values(&[status.as_str(), reason]).inc();
        if let Some(seconds) = &self.seconds {
            seconds.with_label_values(&[status]).observe(took.as_secs_f64());
        }
    }
}

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// Adds one to `gauge`.
    pub fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts one in our gauge, and in Konnectivity's if there is one, until it is dropped.
#[derive(Debug)]
pub struct TwinGuard {
    _ours: GaugeGuard,
    _theirs: Option<GaugeGuard>,
}

impl TwinGuard {
    /// Adds one to each gauge.
    pub fn new(ours: IntGauge, theirs: Option<IntGauge>) -> Self {
        Self { _ours: GaugeGuard::new(ours), _theirs: theirs.map(GaugeGuard::new) }
    }
}
