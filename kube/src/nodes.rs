//! The nodes of the cluster: listed once, then watched.
//!
//! Of each node only names, addresses and pod networks are kept. While the API cannot be
//! reached the nodes stay as they were, and [`Nodes::stale_since`] says since when.

mod slim;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use tunnel::drain::Drain;

use crate::access::Cluster;
use crate::backoff::Backoff;
use crate::requests::{RequestError, Requests};

pub use slim::Node;
use slim::Slim;

/// Limit of a request's wait for its turn, and of the request. A page of nodes is larger
/// than a Lease.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(30);

/// First and largest back-off after a failure. With less at the end, a failing API gets
/// more load; with more, a list of nodes is minutes old.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Range of a watch's duration in seconds. API servers end watches at 300 s.
const WATCH: std::ops::Range<u32> = 200..290;

/// How late a watch may end before it counts as dead.
const WATCH_SLACK: Duration = Duration::from_secs(10);

/// A shorter watch is a failure; without this, an API server that ends every watch at once
/// would be asked in a loop.
const WATCH_LASTED: Duration = Duration::from_secs(5);

/// Nodes in one answer. A node has 5 to 30 KB in JSON, and an answer may have 16 MiB.
const PAGE: u32 = 250;

/// Most nodes that are kept: a bound on memory, four times the largest cluster that
/// Kubernetes supports.
const MOST_NODES: usize = 20_000;

/// The nodes, and how far they can be trusted.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    nodes: BTreeMap<String, Known>,
    listed: bool,
    stale_since: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Known {
    node: Node,
    since: Instant,
}

impl Nodes {
    /// Every node in the order of names, and since when this process knows it.
    pub fn iter(&self) -> impl Iterator<Item = (&Node, Instant)> {
        self.nodes.values().map(|known| (&known.node, known.since))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether they were listed at all.
    pub const fn is_listed(&self) -> bool {
        self.listed
    }

    /// Since when the API does not say what changes; `None` while it does.
    pub const fn stale_since(&self) -> Option<Instant> {
        self.stale_since
    }

    /// True if that is a change.
    fn put(&mut self, node: Node) -> bool {
        if let Some(known) = self.nodes.get_mut(&node.name) {
            let changed = known.node != node;
            known.node = node;
            return changed;
        }
        if self.nodes.len() >= MOST_NODES {
            return false;
        }
        self.nodes.insert(node.name.clone(), Known { node, since: Instant::now() });
        true
    }
}

/// Follows the nodes that `selector` selects, in the API's syntax (empty selects all), until
/// the drain begins. A change of the receiver is a change of the nodes, or of their trust;
/// heartbeats of kubelets are none.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn follow(cluster: &Cluster, selector: &str, drain: &Drain) -> watch::Receiver<Nodes> {
    let (nodes, seen) = watch::channel(Nodes::default());
    let follower = Follower {
        api: Api::all_with(cluster.client.clone(), &slim::resource()),
        requests: Requests::new(cluster, PATIENCE, LIMIT),
        selector: selector.to_owned(),
        nodes,
    };
    let drained = drain.clone();
    drain.spawn("nodes", async move {
        tokio::select! {
            biased;
            () = drained.started() => {}
            // Boxed, because the future is large.
            () = Box::pin(follower.run()) => {}
        }
    });
    seen
}

struct Follower {
    api: Api<Slim>,
    requests: Requests,
    selector: String,
    nodes: watch::Sender<Nodes>,
}

/// Why a watch is over.
enum Over {
    /// The next watch goes on from this version.
    Ended(String),
    /// The API refused it, or no longer has its version.
    Failed(RequestError),
}

impl Follower {
    /// Lists and watches until all receivers are dropped.
    async fn run(self) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut failing = false;
        while !self.nodes.is_closed() {
            let error = match self.list().await {
                Ok(version) => {
                    if failing {
                        info!(selector = self.selector, "nodes are followed again");
                    }
                    failing = false;
                    match self.watch_on(version, &mut backoff).await {
                        Some(error) => error,
                        None => continue,
                    }
                }
                Err(error) => error,
            };
            self.nodes.send_if_modified(|nodes| {
                let fresh = nodes.stale_since.is_none();
                nodes.stale_since.get_or_insert_with(Instant::now);
                fresh
            });
            if failing {
                debug!(%error, "nodes still cannot be followed");
            } else {
                warn!(selector = self.selector, %error, "cannot follow the nodes, so they stay as they are");
            }
            failing = true;
            sleep(backoff.next_wait()).await;
        }
    }

    /// Lists all pages; nodes that are in none are gone.
    async fn list(&self) -> Result<String, RequestError> {
        let mut parameters = ListParams::default().labels(&self.selector).limit(PAGE);
        let mut listed = BTreeMap::new();
        loop {
            let page = self.requests.run(self.api.list(&parameters)).await?;
            listed.extend(page.items.into_iter().map(|slim| {
                let node = Node::from(slim);
                (node.name.clone(), node)
            }));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if listed.len() < MOST_NODES => {
                    parameters = parameters.continue_token(&token);
                }
                _ => {
                    self.take(listed);
                    return Ok(page.metadata.resource_version.unwrap_or_default());
                }
            }
        }
    }

    fn take(&self, mut listed: BTreeMap<String, Node>) {
        self.nodes.send_if_modified(|nodes| {
            let before = nodes.nodes.len();
            nodes.nodes.retain(|name, _| listed.contains_key(name));
            let mut changed = before != nodes.nodes.len() || !nodes.listed || nodes.stale_since.is_some();
            while let Some((_, node)) = listed.pop_first() {
                changed |= nodes.put(node);
            }
            nodes.listed = true;
            nodes.stale_since = None;
            changed
        });
    }

    /// Watches from a version on, in one watch after the other, until nodes have to be
    /// listed anew. Returns the failure, if that is the reason.
    async fn watch_on(&self, mut version: String, backoff: &mut Backoff) -> Option<RequestError> {
        loop {
            let began = Instant::now();
            let over = self.watch(&version).await;
            let lasted = began.elapsed() >= WATCH_LASTED;
            if lasted {
                backoff.reset();
            }
            match over {
                Over::Ended(next) if lasted => version = next,
                Over::Ended(_) => {
                    return Some(RequestError::Unreachable("the watch ended as soon as it began".to_owned()));
                }
                // After a long watch that is no failure: the version is too old.
                Over::Failed(error) if error.is_status(410) && lasted => return None,
                Over::Failed(error) => return Some(error),
            }
        }
    }

    async fn watch(&self, version: &str) -> Over {
        let seconds = rand::random_range(WATCH);
        let mut parameters = WatchParams::default().timeout(seconds);
        if !self.selector.is_empty() {
            parameters = parameters.labels(&self.selector);
        }
        let began = Instant::now();
        let events = match self.requests.run(self.api.watch(&parameters, version)).await {
            Ok(events) => events,
            Err(error) => return Over::Failed(error),
        };
        let mut events = pin!(events);
        let mut version = version.to_owned();
        let limit = Duration::from_secs(seconds.into()) + WATCH_SLACK;
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let event = match timeout(left, events.next()).await {
                Err(_) => return Over::Failed(RequestError::Timeout(limit)),
                Ok(None) => return Over::Ended(version),
                // Also a watch that has reached the limit of an answer, which heartbeats of
                // thousands of kubelets can do.
                Ok(Some(Err(error))) => {
                    debug!(%error, "a watch of nodes broke off");
                    return Over::Ended(version);
                }
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Error(status) => return Over::Failed(kube::Error::Api(status).into()),
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Added(slim) | WatchEvent::Modified(slim) => {
                    version = slim.metadata.resource_version.clone().unwrap_or(version);
                    let node = Node::from(slim);
                    self.nodes.send_if_modified(|nodes| nodes.put(node));
                }
                WatchEvent::Deleted(slim) => {
                    version = slim.metadata.resource_version.clone().unwrap_or(version);
                    let name = slim.metadata.name.unwrap_or_default();
                    self.nodes.send_if_modified(|nodes| nodes.nodes.remove(&name).is_some());
                }
            }
        }
    }
}
