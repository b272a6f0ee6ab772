//! Our own metrics. The help texts are the documentation.

use std::sync::Arc;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};
use tunnel::relay::Budget;
use tunnel_program::metering::Maker;

const DIAL_BUCKETS: &[f64] = &[0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0];
const LIFE_BUCKETS: &[f64] = &[0.1, 1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0];

/// Dials, from a client's request to its answer.
#[derive(Debug)]
pub(super) struct Dials {
    /// Waiting for an agent's answer.
    pub(super) pending: IntGauge,
    /// By outcome.
    pub(super) ended: IntCounterVec,
    /// Tried again on another agent.
    pub(super) retries: IntCounter,
    /// Seconds that those which connected took.
    pub(super) seconds: HistogramVec,
    /// The same by stage.
    pub(super) stages: HistogramVec,
}

impl Dials {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            pending: make.gauge("pending_dials", "Dials waiting for an agent's answer.")?,
            ended: make.counters(
                "dials_total",
                "Dials by outcome: connected, cancelled, unanswered (connected, but the client had gone), \
                 or why not.",
                &["frontend", "outcome"],
            )?,
            retries: make.counter(
                "dial_retries_total",
                "Dials tried again on another agent because nothing had reached the target.",
            )?,
            seconds: make.histograms(
                "dial_duration_seconds",
                "Time from a client's request to the agent's answer, for dials which connected.",
                &["link"],
                DIAL_BUCKETS,
            )?,
            stages: make.histograms(
                "dial_stage_duration_seconds",
                "The same by stage: open (choosing an agent and opening a stream) and answer (the agent's dial \
                 of the target, and the way there and back).",
                &["link", "stage"],
                DIAL_BUCKETS,
            )?,
        })
    }
}

/// Connections, and the streams that carry them.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Of clients, dials included.
    pub(super) connections: IntGaugeVec,
    /// Streams that are open.
    pub(super) streams: IntGaugeVec,
    /// Streams that were opened.
    pub(super) streams_opened: IntCounterVec,
    /// Bytes relayed.
    pub(super) bytes: IntCounterVec,
    /// How connections ended.
    pub(super) endings: IntCounterVec,
    /// Seconds that they lasted.
    pub(super) seconds: Histogram,
    /// Directions of connections that are stalled.
    pub(super) stalled: IntGaugeVec,
    /// How often that began.
    pub(super) stalls: IntCounterVec,
}

impl Traffic {
    pub(super) fn make(make: &mut Maker<'_>, budget: &Arc<Budget>) -> Result<Self> {
        let kept = Arc::clone(budget);
        make.read_gauge(
            "stalled_bytes",
            "Bytes that wait in this process for receivers which have taken nothing for 5 s or longer.",
            move || kept.kept(),
        )?;
        Ok(Self {
            connections: make.gauges(
                "connections",
                "Client connections being served, those being dialled included.",
                &["frontend"],
            )?,
            streams: make.gauges(
                "streams",
                "Streams open to agents, those being dialled included.",
                &["link"],
            )?,
            streams_opened: make.counters("streams_opened_total", "Streams opened to agents.", &["link"])?,
            bytes: make.counters(
                "bytes_total",
                "Bytes relayed, up (from clients) and down.",
                &["frontend", "link", "direction"],
            )?,
            endings: make.counters(
                "connections_ended_total",
                "Relayed connections, by how they ended and what broke; near is the client, far the target.",
                &["frontend", "link", "how", "why"],
            )?,
            seconds: make.histogram(
                "connection_duration_seconds",
                "Time that relayed connections lasted, their dial included.",
                LIFE_BUCKETS,
            )?,
            stalled: make.gauges(
                "stalled_connections",
                "Connections whose receiver (up: the agent or its target, down: the client) has taken nothing \
                 for 10 s or longer while bytes wait for it.",
                &["frontend", "link", "direction"],
            )?,
            stalls: make.counters(
                "stalls_total",
                "How often a connection became stalled.",
                &["frontend", "link", "direction"],
            )?,
        })
    }
}

/// Clients and agents before and beside connections.
#[derive(Debug)]
pub struct Peers {
    /// Client connections that never became a dial.
    pub bad_clients: IntCounterVec,
    /// Tunnels that stand.
    pub tunnels: IntGaugeVec,
    /// Those of agents that are silent.
    pub suspect_tunnels: IntGaugeVec,
    /// Agents that were not admitted.
    pub rejected_agents: IntCounterVec,
    /// Tunnels that ended.
    pub tunnels_closed: IntCounterVec,
    /// Accepts that failed.
    pub accept_errors: IntCounterVec,
    pub(super) token_reviews: IntCounterVec,
    pub(super) token_review_seconds: Histogram,
}

impl Peers {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            bad_clients: make.counters(
                "bad_clients_total",
                "Client connections that did not get as far as a dial, by what was wrong.",
                &["reason"],
            )?,
            tunnels: make.gauges("tunnels", "Tunnels of agents that stand.", &["link"])?,
            suspect_tunnels: make.gauges(
                "suspect_tunnels",
                "Tunnels among them whose agent was not heard of for 15 s: it gets no new dials, but its streams \
                 wait for it for 70 s.",
                &["link"],
            )?,
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
            token_reviews: make.counters(
                "token_reviews_total",
                "Times that the Kubernetes API was asked whether an agent's token is good, by outcome.",
                &["outcome"],
            )?,
            token_review_seconds: make.histogram(
                "token_review_duration_seconds",
                "Time that such a review took, the wait for its turn included.",
                DIAL_BUCKETS,
            )?,
        })
    }
}
