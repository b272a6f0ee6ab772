//! The list of floods, those that take the most memory first: it is given back while the others go on.

mod agents;
mod clients;
mod http2;
mod pages;
mod quic;
mod strangers;

use std::pin::Pin;
use std::sync::Arc;

use measuring_kit::Link;

use super::attack::Attack;

type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A kind of flood.
#[derive(Debug)]
pub(crate) struct Flood {
    pub(crate) name: &'static str,
    /// For a table.
    pub(crate) what: &'static str,
    /// Whether nobody reads the server's log meanwhile.
    pub(crate) stalls_log: bool,
    /// How often it has to do what it does: it lasts longer for it, and has failed with less.
    pub(crate) enough: u64,
    /// Its part of the limits of time: more than 1 for what its bystanders share with it, as the comment says.
    pub(crate) patience: f64,
    pub(crate) run: fn(Arc<Attack>) -> Running,
}

impl Flood {
    const fn of(name: &'static str, what: &'static str, run: fn(Arc<Attack>) -> Running) -> Self {
        Self { name, what, stalls_log: false, enough: 1, patience: 1.0, run }
    }

    const fn enough(self, enough: u64) -> Self {
        Self { enough, ..self }
    }

    const fn patience(self, patience: f64) -> Self {
        Self { patience, ..self }
    }

    /// For tests.
    #[cfg(test)]
    pub(crate) fn of_nothing() -> Self {
        Self::of("a", "some a", |_| Box::pin(async { Ok(()) }))
    }

    /// The flood of this name.
    ///
    /// # Errors
    /// When there is none; names all.
    pub(crate) fn named(name: &str) -> anyhow::Result<&'static Self> {
        ALL.iter().find(|flood| flood.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|flood| flood.name).collect();
            anyhow::anyhow!("no flood {name:?}; there are {}", names.join(", "))
        })
    }
}

/// All floods.
pub(crate) static ALL: &[Flood] = &[
    Flood::of("half-grpc", "gRPC messages whose rest never comes", |a| Box::pin(clients::half_messages(a))),
    // A client that may dial gets what it asks for.
    Flood::of("calls", "60,000 gRPC calls on one connection", |a| Box::pin(clients::calls(a))).patience(3.0),
    Flood::of("unread", "downloads that nobody reads", |a| Box::pin(clients::unread(a))).patience(3.0),
    // Two thousand dials at once, and a hundred downloads as fast as they go.
    Flood::of("zero-windows", "gRPC calls without a window", |a| Box::pin(clients::zero_windows(a)))
        .patience(3.0),
    Flood::of("black-holes", "dials into a black hole", |a| Box::pin(clients::black_holes(a))),
    Flood::of("big-headers", "HTTP/2 headers at the limit", |a| Box::pin(clients::big_headers(a))),
    Flood::of("idle-sockets", "TCP connections that say nothing", |a| Box::pin(strangers::idle_sockets(a))),
    // Three thousand at once: the first part of a handshake for each.
    Flood::of("hello-silence", "TLS that ends with its first message", |a| Box::pin(strangers::silence(a)))
        .patience(3.0),
    // There are 512 places for such; a thousand handshakes take both processors.
    Flood::of("no-greeting", "agents that do not greet", |a| Box::pin(agents::no_greeting(a)))
        .enough(1000)
        .patience(3.0),
    Flood::of("many-ids", "tunnels of one certificate's many ids", |a| Box::pin(agents::many(a))),
    Flood::of("one-id", "tunnels of one agent's id", |a| Box::pin(agents::one_id(a))),
    Flood::of("half-control", "agents' messages whose rest never comes", |a| Box::pin(agents::half(a))),
    Flood::of("unknown-control", "an agent's unknown messages", |a| Box::pin(agents::unknown(a))),
    Flood::of("churn", "512 identifiers that come and go, and dials to them", |a| Box::pin(agents::churn(a))),
    Flood::of("pings-quic", "an agent's pings on QUIC", |a| Box::pin(agents::pings(a, Link::Quic))),
    Flood::of("pings-h2", "an agent's pings on HTTP/2", |a| Box::pin(agents::pings(a, Link::H2))),
    Flood {
        stalls_log: true,
        ..Flood::of("stalled-log", "a log that nobody reads", |a| Box::pin(pages::stalled_log(a)))
    },
    Flood::of("few-initials", "QUIC's first packets, too few for Retry", |a| {
        Box::pin(strangers::few_initials(a))
    }),
    Flood::of("initials", "QUIC's first packets of many sources", |a| Box::pin(strangers::initials(a))),
    Flood::of("health", "requests to the health port", |a| Box::pin(pages::health(a))),
    Flood::of("stalled-metrics", "readers of metrics that stall", |a| Box::pin(pages::stalled_metrics(a))),
    Flood::of("metrics", "requests for metrics", |a| Box::pin(pages::metrics(a))),
    Flood::of("tls", "TLS handshakes without a certificate", |a| Box::pin(strangers::handshakes(a))),
    Flood::of("long-chains", "chains of a hundred certificates", |a| Box::pin(strangers::long_chains(a))),
    Flood::of("register", "500 identifiers that come and go", |a| Box::pin(agents::register(a, 500))),
    Flood::of("forged-tokens", "tokens that nobody has signed", |a| Box::pin(agents::forged_tokens(a)))
        // A bystander's own token waits for up to nine reviews, of which there are five a second.
        .patience(3.0),
    Flood::of("drains", "an agent's drain notices", |a| Box::pin(agents::drains(a))),
    Flood::of("agent-frames", "an agent's HTTP/2 frames that want answers", |a| Box::pin(http2::asking(a))),
    Flood::of("agent-http2", "an agent's HTTP/2 frames of all kinds", |a| Box::pin(http2::every_kind(a))),
    Flood::of("agent-quic", "an agent's streams, datagrams and moves on QUIC", |a| Box::pin(quic::frames(a))),
    Flood::of("nonsense-answers", "agents' nonsense as answers to dials", |a| Box::pin(agents::nonsense(a))),
    Flood::of("konnectivity", "malformed packets of Konnectivity's agents", |a| {
        Box::pin(agents::konnectivity(a))
    }),
    Flood::of("rapid-reset", "gRPC calls that are reset at once", |a| Box::pin(clients::rapid_reset(a))),
    Flood::of("hpack-bomb", "HTTP/2 headers that expand", |a| Box::pin(clients::hpack_bomb(a))),
    Flood::of("http2-frames", "HTTP/2 frames that want answers", |a| Box::pin(clients::frames(a))),
    Flood::of("no-agent", "dials without an agent", |a| Box::pin(clients::no_agent(a))),
    Flood::of("connect-heads", "malformed CONNECT requests", |a| Box::pin(clients::malformed_heads(a))),
    Flood::of("garbage", "random bytes on every listener", |a| Box::pin(strangers::garbage(a))),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_flood_has_a_name_and_words_of_its_own() {
        let names: BTreeSet<_> = ALL.iter().map(|flood| flood.name).collect();
        let words: BTreeSet<_> = ALL.iter().map(|flood| flood.what).collect();
        assert_eq!((names.len(), words.len()), (ALL.len(), ALL.len()));
        assert!(Flood::named("calls").is_ok());
        assert!(Flood::named("call").unwrap_err().to_string().contains("calls, "));
    }
}
