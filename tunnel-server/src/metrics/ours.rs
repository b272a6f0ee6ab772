//! Our own metrics. The help texts are the documentation.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Result};
use tunnel_program::metering::{DIAL_BUCKETS, Maker, SocketMetrics, Traffic, TrafficTexts};
use tunnel_program::renewal::RenewalMetrics;

#[derive(Debug)]
pub(super) struct Ours {
    pub(super) dials: Dials,
    pub(super) traffic: Traffic,
    pub(super) connections: IntGaugeVec,
    pub(super) streams: IntGaugeVec,
    pub(super) streams_opened: IntCounterVec,
    pub(super) peers: Peers,
    pub(super) renewal: RenewalMetrics,
    pub(super) sockets: SocketMetrics,
}

impl Ours {
    pub(super) fn make(make: &mut Maker<'_>) -> Result<Self> {
        let texts = TrafficTexts {
            labels: &["frontend", "link"],
            bytes: "Bytes relayed, up (from clients) and down.",
            endings: "Relayed connections, by how they ended and what broke; near is the client, far the target.",
            seconds: "Time that relayed connections lasted, their dial included.",
            stalled: "Connections whose receiver (up: the agent or its target, down: the client) has taken \
                      nothing for 10 s or longer while bytes wait for it.",
        };
        Ok(Self {
            dials: Dials::make(make)?,
            traffic: Traffic::make(make, &texts)?,
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
            peers: Peers::make(make)?,
            renewal: RenewalMetrics::make(make)?,
            sockets: SocketMetrics::make(make)?,
        })
    }
}

/// Dials, from a client's request to its answer.
#[derive(Debug)]
pub(super) struct Dials {
    pub(super) pending: IntGauge,
    pub(super) ended: IntCounterVec,
    pub(super) retries: IntCounter,
    pub(super) waits: IntCounterVec,
    pub(super) denied: IntCounterVec,
    pub(super) seconds: HistogramVec,
    pub(super) stages: HistogramVec,
}

impl Dials {
    fn make(make: &mut Maker<'_>) -> Result<Self> {
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
            waits: make.counters(
                "dial_waits_total",
                "Dials that waited, 2 s at most, for an agent in place of one that had just left: served or in_vain.",
                &["outcome"],
            )?,
            denied: make.counters(
                "policy_denied_total",
                "Dials that this server's policy refused, by rule of the file or built in.",
                &["rule"],
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

/// Clients and agents, before and beside connections.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) bad_clients: IntCounterVec,
    pub(super) tunnels: IntGaugeVec,
    pub(super) suspect_tunnels: IntGaugeVec,
    pub(super) rejected_agents: IntCounterVec,
    pub(super) tunnels_closed: IntCounterVec,
    pub(super) lapsed: IntCounterVec,
    pub(super) accept_errors: IntCounterVec,
    pub(super) identities: IntGaugeVec,
    pub(super) identity_mode: IntGaugeVec,
    pub(super) unproven_claims: IntCounterVec,
    pub(super) contested_addresses: IntGauge,
    pub(super) token_reviews: IntCounterVec,
    pub(super) token_review_seconds: Histogram,
}

impl Peers {
    fn make(make: &mut Maker<'_>) -> Result<Self> {
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
            lapsed: make.counters(
                "lapsed_tunnels_total",
                "Tunnels that ended because the agent's credential had: expired, untrusted (its CA was withdrawn, \
                 or it was revoked) or token_expired.",
                &["reason"],
            )?,
            accept_errors: make.counters(
                "accept_errors_total",
                "Connections that could not be accepted, for lack of file descriptors or memory.",
                &["listener"],
            )?,
            identities: make.gauges(
                "identities",
                "Tunnels of agents that stand, by the kind of the agent's identity.",
                &["kind"],
            )?,
            identity_mode: make.gauges("identity_mode", "1 for the value of --identity-mode.", &["mode"])?,
            unproven_claims: make.counters(
                "unproven_claims_total",
                "Claims of admitted agents that their identities do not prove, by kind of claim: host, address, \
                 cidr or default_route. --identity-mode=strict drops them.",
                &["claim"],
            )?,
            contested_addresses: make.gauge(
                "contested_addresses",
                "Addresses, names and networks that several Node objects list, at most 100.",
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
