//! From an agent's identity and its claims to the routes of its tunnel.

mod nodes;

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};
use tunnel_kube::Reviewed;
use tunnel_kube::nodes::{Node, Nodes};
use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Host;

use super::identity::{Conflict, Identity, IdentityMap, Template};
use super::routes::{Routes, counted, shown, split};
use crate::canonical::canonical_host;
use crate::metrics::Metrics;
use nodes::NodeRoutes;

/// Causes that were logged. With fewer, a large fleet of agents without proof logs them at each
/// reconnect; more is memory that agents can take.
const MOST_LOGGED: usize = 8192;

/// Claims in one log line.
const MOST_SHOWN: usize = 8;

/// The treatment of claims that an identity does not prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// They get no dials.
    Strict,
    /// They get dials for targets that no other identity proves.
    Audit,
    /// Identities are only logged.
    Legacy,
}

impl Mode {
    /// The value of the flag.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Audit => "audit",
            Self::Legacy => "legacy",
        }
    }
}

/// The origin of a node's routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// The agent's identifiers.
    Claims,
    /// The Node object.
    Nodes,
}

impl Source {
    /// The value of the flag.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Claims => "claims",
            Self::Nodes => "nodes",
        }
    }
}

/// The operator's rules about identities.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) mode: Mode,
    pub(crate) source: Source,
    pub(crate) template: Option<Template>,
    pub(crate) map: IdentityMap,
    /// Texts of identities that may be a default route; a `*` at the end stands for any rest.
    pub(crate) default_routes: Vec<String>,
}

/// The nodes that prove addresses at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownNodes {
    pub(crate) listed: bool,
    pub(crate) count: usize,
    /// Since when the API does not say what changes.
    pub(crate) stale_since: Option<Instant>,
}

/// Knows what each identity proves. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Rules,
    /// In place of the one in `rules`.
    map: ArcSwap<IdentityMap>,
    metrics: Metrics,
    nodes: ArcSwap<NodeRoutes>,
    /// Set once nodes are watched.
    watched: OnceLock<watch::Receiver<Nodes>>,
    logged: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

impl Trust {
    pub(crate) fn new(rules: Rules, metrics: Metrics) -> Self {
        metrics.identity_mode(rules.mode.label());
        Self(Arc::new(Inner {
            map: ArcSwap::from_pointee(rules.map.clone()),
            rules,
            metrics,
            nodes: ArcSwap::default(),
            watched: OnceLock::new(),
            logged: Mutex::default(),
            hasher: RandomState::new(),
        }))
    }

    pub(crate) fn mode(&self) -> Mode {
        self.0.rules.mode
    }

    pub(crate) fn source(&self) -> Source {
        self.0.rules.source
    }

    /// Replaces the map of identities, for routes that are made later.
    pub(crate) fn remap(&self, map: IdentityMap) {
        self.0.map.store(Arc::new(map));
    }

    /// The claims that an identity does not prove. None in [`Mode::Legacy`].
    pub(crate) fn unproven(&self, identity: &Identity, claims: &Arc<Identifiers>) -> Arc<Identifiers> {
        self.judged(identity, claims).1
    }

    /// Whether a tunnel with these routes may get dials for a host that a strategy gives it. Where
    /// Node objects make the routes, a node's targets are for those alone who prove them, also
    /// while there is none: any other agent could play the kubelet. Before the first list of nodes
    /// every target may be a node's.
    pub(crate) fn lets(&self, routes: &Routes, host: &Host) -> bool {
        let Rules { mode, source, .. } = &self.0.rules;
        if (*mode, *source) != (Mode::Strict, Source::Nodes) {
            return true;
        }
        let host = canonical_host(host);
        let is_nobodys = || {
            let nodes = self.0.nodes.load();
            nodes.is_listed() && !nodes.list(&host)
        };
        routes.proven.default_route || routes.prove(&host) || is_nobodys()
    }

    /// The targets that several nodes list: each with some of the nodes, and the one that keeps it.
    pub(crate) fn contested<T>(&self, each: impl Fn(&str, &[String], Option<&str>) -> T) -> Vec<T> {
        let nodes = self.0.nodes.load();
        let contests = nodes.contests().iter();
        contests.map(|contest| each(&contest.target, &contest.nodes, contest.kept_by.as_deref())).collect()
    }

    /// The nodes that prove addresses, if nodes are watched.
    pub(crate) fn known_nodes(&self) -> Option<KnownNodes> {
        let stale_since = self.0.watched.get()?.borrow().stale_since();
        let nodes = self.0.nodes.load();
        Some(KnownNodes { listed: nodes.is_listed(), count: nodes.count(), stale_since })
    }

    /// The identity of an agent with this token, certificate, or both.
    ///
    /// # Errors
    /// When the credentials name different nodes.
    pub(super) fn identify(
        &self,
        holder: Option<&Reviewed>,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<Identity, Conflict> {
        Identity::of(holder, certificate, self.0.rules.template.as_ref())
    }

    /// The routes of an agent.
    pub(super) fn routes(&self, identity: &Identity, claims: &Arc<Identifiers>) -> Routes {
        self.judged(identity, claims).0
    }

    /// The routes of a new agent. Counts its unproven claims, and logs them once.
    pub(super) fn admit(&self, agent: &str, identity: &Identity, claims: &Arc<Identifiers>) -> Routes {
        let (routes, unproven) = self.judged(identity, claims);
        let kinds = counted(&unproven).into_iter().filter(|(_, count)| *count > 0);
        let mut new = false;
        for (kind, count) in kinds {
            self.0.metrics.unproven_claims(kind, count);
            new |= self.is_first(agent, kind);
        }
        if new {
            let claims = shown(&unproven, MOST_SHOWN);
            match self.0.rules.mode {
                Mode::Strict => {
                    warn!(agent, %identity, ?claims, "the agent's identity does not prove these claims: they get no dials")
                }
                Mode::Audit => {
                    info!(agent, %identity, ?claims, "the agent's identity does not prove these claims: --identity-mode=strict would drop them")
                }
                Mode::Legacy => {}
            }
        }
        routes
    }

    /// The routes, and the claims without proof.
    fn judged(&self, identity: &Identity, claims: &Arc<Identifiers>) -> (Routes, Arc<Identifiers>) {
        let Rules { mode, source, .. } = &self.0.rules;
        if *mode == Mode::Legacy {
            return (Routes::as_claimed(Arc::clone(claims)), Arc::default());
        }
        let proof = self.proof(identity);
        let (proven, unproven) = split(claims, &proof);
        let any = *mode == Mode::Audit || !proof.is_empty();
        if let (Source::Nodes, Identity::Node(_)) = (source, identity) {
            let proven = match proof.default_route && !claims.default_route {
                true => Arc::new(Identifiers { default_route: false, ..Identifiers::clone(&proof) }),
                false => proof,
            };
            return (Routes { proven, claimed: Arc::default(), any }, unproven);
        }
        let claimed = if *mode == Mode::Strict { Arc::default() } else { Arc::clone(&unproven) };
        (Routes { proven, claimed, any }, unproven)
    }

    /// The targets that an identity may serve.
    fn proof(&self, identity: &Identity) -> Arc<Identifiers> {
        let own = match identity {
            Identity::Node(name) => self.of_node(name),
            Identity::Names(hosts) => {
                Arc::new(Identifiers { hosts: hosts.clone(), ..Identifiers::default() })
            }
            Identity::Spiffe(_) | Identity::Subject(_) | Identity::Unknown => Arc::default(),
        };
        let default_route = self.may_be_default_route(identity);
        let map = self.0.map.load();
        let mapped = map.of(identity);
        if mapped.is_empty() && own.default_route == default_route {
            return own;
        }
        let mut all = Identifiers { default_route, ..Identifiers::clone(&own) };
        for entry in mapped {
            all.hosts.extend_from_slice(&entry.hosts);
            all.cidrs.extend_from_slice(&entry.cidrs);
            all.default_route |= entry.default_route;
        }
        Arc::new(all)
    }

    /// A node's object, if nodes are watched. Without one the name alone, except where the object
    /// makes the routes: then a node that is gone has none.
    fn of_node(&self, name: &str) -> Arc<Identifiers> {
        let nodes = self.0.nodes.load();
        if let Some(known) = nodes.of(name) {
            return known;
        }
        if self.0.rules.source == Source::Nodes && nodes.is_listed() {
            return Arc::default();
        }
        let hosts = Host::parse(name).into_iter().filter(|host| matches!(host, Host::Name(_))).collect();
        Arc::new(Identifiers { hosts, ..Identifiers::default() })
    }

    fn may_be_default_route(&self, identity: &Identity) -> bool {
        let texts = identity.texts();
        self.0.rules.default_routes.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some("") => true,
            Some(start) => texts.iter().any(|text| text.starts_with(start)),
            None => texts.contains(pattern),
        })
    }

    /// Whether this cause was not logged yet.
    fn is_first(&self, agent: &str, kind: &str) -> bool {
        let cause = self.0.hasher.hash_one((agent, kind));
        let mut logged = self.0.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= MOST_LOGGED {
            logged.clear();
        }
        logged.insert(cause)
    }

    /// Nodes are watched from now on. The first call holds.
    pub(super) fn watch(&self, nodes: watch::Receiver<Nodes>) {
        let _ = self.0.watched.set(nodes);
    }

    /// Takes over the nodes of this moment. Logs new conflicts.
    pub(super) fn take(&self, nodes: &Nodes) {
        self.take_nodes(nodes.iter().map(|(node, _)| node), nodes.is_listed());
    }

    /// As [`Trust::take`], of nodes that need not be watched.
    pub(super) fn take_nodes<'a>(&self, nodes: impl Iterator<Item = &'a Node>, are_listed: bool) {
        let before = self.0.nodes.load_full();
        let after = before.next(nodes, are_listed);
        for contest in after.contests().iter().filter(|contest| !before.contests().contains(contest)) {
            warn!(
                address = contest.target, nodes = ?contest.nodes, kept_by = ?contest.kept_by,
                "several nodes list one address: it stays with the node that had it first, or routes to none"
            );
        }
        self.0.metrics.contested_addresses(after.contests().len());
        self.0.nodes.store(Arc::new(after));
    }
}

#[cfg(test)]
mod tests;
