//! Counting the Leases of tunnel servers, as an agent does, and reading the addresses in them.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use tunnel::drain::Drain;

use super::address::{self, ADDRESS};
use super::event::{LeaseEvent, Outcome};
use super::expiry::runs_out;
use crate::Observe;
use crate::access::Cluster;
use crate::backoff::Backoff;
use crate::requests::{RequestError, Requests, printable};

/// Limit of a request's wait for its turn, and of the request. Shorter, and an API
/// server that restarts fails whole fleets; longer, and a dead one is noticed late.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(15);

/// First and largest back-off after a failure. With less at the end, a whole fleet
/// lists at once when the API comes back; with more, a count is minutes old.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Range of a watch's random duration in seconds: watches that end spread the
/// connections of a fleet over API servers. API servers end watches at 300 s.
const WATCH: std::ops::Range<u32> = 200..290;

/// How late a watch may end before it counts as dead. Less than a slow answer, and
/// living watches are given up.
const WATCH_SLACK: Duration = Duration::from_secs(10);

/// A shorter watch is a failure; without this, an API server that ends every watch
/// at once would be asked in a loop.
const WATCH_LASTED: Duration = Duration::from_secs(5);

/// Leases are listed anew within this time after a Lease ran out, because the watch
/// may be dead instead of the server. Less, and a fleet lists at once.
const CONFIRM: Duration = Duration::from_secs(5);

/// Most Leases that are remembered: a bound on memory, far above any number of
/// tunnel servers.
const MOST_LEASES: usize = 10_000;

/// Most addresses that are told: a bound on what a writer of Leases can make agents dial, above any number of tunnel
/// servers.
const MOST_ADDRESSES: usize = 64;

/// The Leases that are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    /// The namespace of the Leases.
    pub namespace: String,
    /// A label selector in the API's syntax; empty selects all.
    pub selector: String,
}

/// The valid Leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Their number.
    pub servers: u32,
    /// The addresses that servers advertise in them, at most 64.
    pub addresses: BTreeSet<SocketAddr>,
}

/// Counts valid Leases until the drain begins. The count is `None` until the first
/// list. While the API cannot be reached, the last count stays. With 0, no server
/// publishes a valid Lease.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn count(
    cluster: &Cluster,
    counting: Counting,
    observe: Observe<LeaseEvent>,
    drain: &Drain,
) -> watch::Receiver<Option<Counted>> {
    let (count, counted) = watch::channel(None);
    let counter = Counter {
        leases: Api::namespaced(cluster.client.clone(), &counting.namespace),
        requests: Requests::new(cluster, PATIENCE, LIMIT),
        counting,
        observe,
        clock: cluster.clock,
        count,
        known: HashMap::new(),
    };
    let drained = drain.clone();
    drain.spawn("lease counter", async move {
        tokio::select! {
            biased;
            () = drained.started() => {}
            // Boxed, because the future is large.
            () = Box::pin(counter.run()) => {}
        }
    });
    counted
}

struct Counter {
    leases: Api<Lease>,
    requests: Requests,
    counting: Counting,
    observe: Observe<LeaseEvent>,
    clock: fn() -> Timestamp,
    count: watch::Sender<Option<Counted>>,
    /// By name.
    known: HashMap<String, Known>,
}

/// A Lease.
struct Known {
    end: Timestamp,
    /// The address in it.
    address: Option<SocketAddr>,
}

/// Why a watch is over.
enum WatchEnd {
    /// In time; the next watch goes on from this version.
    Ended(String),
    /// A Lease ran out.
    Expired,
    /// The watch failed, or the API no longer has its version.
    Failed(RequestError),
}

impl Counter {
    /// Lists and watches until all receivers of the count are dropped.
    async fn run(mut self) {
        let mut backoff = RETRY;
        let mut failing = false;
        while !self.count.is_closed() {
            let failure = match self.list().await {
                Ok(version) => self.follow(version, &mut backoff).await,
                Err(error) => Some(error),
            };
            let Some(error) = failure else {
                failing = false;
                sleep(CONFIRM.mul_f64(rand::random())).await;
                continue;
            };
            let namespace = &self.counting.namespace;
            let count = self.count.borrow().as_ref().map(|counted| counted.servers);
            if failing {
                debug!(namespace, %error, "leases still cannot be followed");
            } else {
                warn!(namespace, selector = self.counting.selector, ?count, %error,
                      "cannot follow the leases of tunnel servers, so their count stays as it is");
            }
            failing = true;
            sleep(backoff.next_wait()).await;
        }
    }

    /// Watches from a version on, in one watch after the other, until Leases have to
    /// be listed anew. Returns the failure, if that is the reason.
    async fn follow(&mut self, mut version: String, backoff: &mut Backoff) -> Option<RequestError> {
        loop {
            let began = Instant::now();
            let over = self.watch(&version).await;
            let lasted = began.elapsed() >= WATCH_LASTED;
            if lasted {
                backoff.reset();
            }
            match over {
                WatchEnd::Ended(next) if lasted => version = next,
                WatchEnd::Ended(_) => {
                    return Some(RequestError::Unreachable("the watch ended as soon as it began".to_owned()));
                }
                WatchEnd::Expired => return None,
                // 410 after a long watch is no failure: the version is too old.
                WatchEnd::Failed(error) if error.is_status(410) && lasted => return None,
                WatchEnd::Failed(error) => return Some(error),
            }
        }
    }

    async fn list(&mut self) -> Result<String, RequestError> {
        // From the API server's cache, without a read of etcd.
        let selected = ListParams::default().labels(&self.counting.selector).match_any();
        let began = Instant::now();
        let listed = self.requests.run(self.leases.list(&selected)).await;
        (self.observe)(LeaseEvent::Listed(Outcome::of(&listed, began)));
        let listed = listed?;
        let before = std::mem::take(&mut self.known);
        for lease in listed.items {
            self.keep(&lease, before.get(&lease.name_any()));
        }
        self.tell();
        Ok(listed.metadata.resource_version.unwrap_or_default())
    }

    async fn watch(&mut self, version: &str) -> WatchEnd {
        let seconds = rand::random_range(WATCH);
        let mut parameters = WatchParams::default().timeout(seconds);
        if !self.counting.selector.is_empty() {
            parameters = parameters.labels(&self.counting.selector);
        }
        let began = Instant::now();
        let watched = self.requests.run(self.leases.watch(&parameters, version)).await;
        (self.observe)(LeaseEvent::Watched(Outcome::of(&watched, began)));
        let events = match watched {
            Ok(events) => events,
            Err(error) => return WatchEnd::Failed(error),
        };
        let mut events = pin!(events);
        let mut version = version.to_owned();
        let limit = Duration::from_secs(seconds.into()) + WATCH_SLACK;
        loop {
            let left = limit.saturating_sub(began.elapsed());
            let event = tokio::select! {
                biased;
                event = timeout(left, events.next()) => event,
                () = sleep(self.next_end()) => return WatchEnd::Expired,
            };
            let event = match event {
                Err(_) => return WatchEnd::Failed(RequestError::Timeout(limit)),
                Ok(None) => return WatchEnd::Ended(version),
                Ok(Some(Err(error))) => return WatchEnd::Failed(error.into()),
                Ok(Some(Ok(event))) => event,
            };
            match event {
                WatchEvent::Error(status) => return WatchEnd::Failed(kube::Error::Api(status).into()),
                WatchEvent::Bookmark(bookmark) => version = bookmark.metadata.resource_version,
                WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                    let before = self.known.remove(&lease.name_any());
                    self.keep(&lease, before.as_ref());
                    version = lease.resource_version().unwrap_or(version);
                }
                WatchEvent::Deleted(lease) => {
                    self.known.remove(&lease.name_any());
                    version = lease.resource_version().unwrap_or(version);
                }
            }
            self.tell();
        }
    }

    /// Remembers a Lease that is not known any more; `before` is what was known of it.
    fn keep(&mut self, lease: &Lease, before: Option<&Known>) {
        let name = lease.name_any();
        let Some(end) = runs_out(lease) else {
            return debug!(lease = printable(&name), "a lease without a time of renewal does not count");
        };
        if self.known.len() >= MOST_LEASES {
            return;
        }
        let text = lease.annotations().get(ADDRESS);
        let address = text.and_then(|text| address::read(text));
        // Once, and not with every renewal.
        if text.is_some() && address.is_none() && before.is_none_or(|before| before.address.is_some()) {
            debug!(lease = printable(&name), "the address in a lease names no server and is ignored");
        }
        self.known.insert(name, Known { end, address });
    }

    /// Time until the next valid Lease runs out.
    fn next_end(&self) -> Duration {
        let now = (self.clock)();
        let next = self.known.values().map(|known| known.end).filter(|end| *end > now).min();
        next.map_or(Duration::MAX, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default())
    }

    fn tell(&self) {
        let now = (self.clock)();
        let valid: Vec<_> = self.known.values().filter(|known| known.end > now).collect();
        let servers = u32::try_from(valid.len()).unwrap_or(u32::MAX);
        let all: BTreeSet<_> = valid.iter().filter_map(|known| known.address).collect();
        let counted = Counted { servers, addresses: all.into_iter().take(MOST_ADDRESSES).collect() };
        let addresses = counted.addresses.len();
        let is_new =
            self.count.send_if_modified(|last| last.replace(counted.clone()).as_ref() != Some(&counted));
        if !is_new {
            return;
        }
        let Counting { namespace, selector } = &self.counting;
        if servers == 0 {
            warn!(namespace, selector, known = self.known.len(), "no lease of a tunnel server is valid");
        } else {
            info!(namespace, count = servers, addresses, "tunnel servers counted by their leases");
        }
    }
}
