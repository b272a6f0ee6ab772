//! Every metric of the server. The help texts are the documentation.

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result,
};
use tunnel::relay::Meter;

/// The server's metrics; clones are the same metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Client connections, dials included.
    pub connections: IntGaugeVec,
    /// Dials waiting for an agent's answer.
    pub pending_dials: IntGauge,
    /// Dials by outcome.
    pub dials: IntCounterVec,
    /// Dials tried again on another agent.
    pub dial_retries: IntCounter,
    /// Seconds that dials which connected took.
    pub dial_seconds: Histogram,
    /// Bytes relayed.
    pub bytes: IntCounterVec,
    /// How connections ended.
    pub endings: IntCounterVec,
    /// Seconds that connections lasted.
    pub connection_seconds: Histogram,
    /// Client connections that never became a dial.
    pub bad_clients: IntCounterVec,
    /// Tunnels that stand.
    pub tunnels: IntGaugeVec,
    /// Agents that were not admitted.
    pub rejected_agents: IntCounterVec,
    /// Heartbeats missed and the like: why tunnels ended.
    pub tunnels_closed: IntCounterVec,
    /// Accepts that failed.
    pub accept_errors: IntCounterVec,
}

const DIAL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];
const LIFE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

/// Names, prefixes and registers.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn add<M: Collector + Clone + 'static>(&self, metric: Result<M>) -> Result<M> {
        let metric = metric?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("tunnel_server_{name}"), help)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add(IntGauge::with_opts(Self::opts(name, help)))
    }

    fn gauges(&self, name: &str, help: &str, label: &str) -> Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Self::opts(name, help), &[label]))
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add(IntCounter::with_opts(Self::opts(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add(IntCounterVec::new(Self::opts(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts))
    }
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// When one of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self> {
        let make = Maker(registry);
        Ok(Self {
            connections: make.gauges(
                "connections",
                "Client connections being served, those being dialled included.",
                "frontend",
            )?,
            pending_dials: make.gauge("pending_dials", "Dials waiting for an agent's answer.")?,
            dials: make.counters(
                "dials_total",
                "Dials by outcome: connected, cancelled, or why not.",
                &["frontend", "outcome"],
            )?,
            dial_retries: make.counter(
                "dial_retries_total",
                "Dials tried again on another agent because nothing had reached the target.",
            )?,
            dial_seconds: make.histogram(
                "dial_duration_seconds",
                "Time from a client's request to the agent's answer, for dials which connected.",
                DIAL_BUCKETS,
            )?,
            bytes: make.counters(
                "bytes_total",
                "Bytes relayed, up (from clients) and down.",
                &["direction"],
            )?,
            endings: make.counters(
                "connections_ended_total",
                "Relayed connections, by how they ended; near is the client, far the target.",
                &["frontend", "how"],
            )?,
            connection_seconds: make.histogram(
                "connection_duration_seconds",
                "Time that relayed connections lasted.",
                LIFE_BUCKETS,
            )?,
            bad_clients: make.counters(
                "bad_clients_total",
                "Client connections that did not get as far as a dial, by what was wrong.",
                &["reason"],
            )?,
            tunnels: make.gauges("tunnels", "Tunnels of agents that stand.", "link")?,
            rejected_agents: make.counters(
                "rejected_agents_total",
                "Agents that were not admitted, by what was wrong.",
                &["link", "reason"],
            )?,
            tunnels_closed: make.counters("tunnels_closed_total", "Tunnels that ended.", &["link"])?,
            accept_errors: make.counters(
                "accept_errors_total",
                "Connections that could not be accepted, for lack of file descriptors or memory.",
                &["listener"],
            )?,
        })
    }

    /// The byte counters for one connection.
    pub fn meter(&self) -> Meter {
        Meter { up: self.bytes.with_label_values(&["up"]), down: self.bytes.with_label_values(&["down"]) }
    }

    /// Counts a pending dial until the guard is dropped.
    pub fn pending_dial(&self) -> GaugeGuard {
        GaugeGuard::new(self.pending_dials.clone())
    }
}

/// Holds a gauge one up until dropped.
#[derive(Debug)]
pub struct GaugeGuard(IntGauge);

impl GaugeGuard {
    /// One up.
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
