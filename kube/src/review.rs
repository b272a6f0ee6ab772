//! Reviews of agents' service-account tokens by the API.
//!
//! Promises that a storm of agents is no storm of reviews: verdicts are remembered,
//! agents with the same token share one review, and reviews have a rate and a
//! bounded queue. A token whose own claims refuse it costs no review. A token that cannot be reviewed
//! admits nobody.

mod claims;
mod error;
mod memory;
mod pod;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::Client;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::warn;

use crate::Observe;
use crate::access::Cluster;
use crate::requests::{RequestError, Requests, post, printable};
use memory::{Key, Memory};
use pod::{Bound, Found};

pub use claims::Claims;
pub use error::TokenError;

/// The API's path of TokenReviews.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Limit of a token's wait for its review, and of the review with the look-up of its pod.
/// Together they are less than the 10 s that an agent waits for the answer to its Hello.
const PATIENCE: Duration = Duration::from_secs(4);
const LIMIT: Duration = Duration::from_secs(5);

/// Most reviews under way: a bound where no rate is set.
const MOST_REVIEWS: usize = 256;

/// How long a good token is not reviewed again. Shorter, and agents that reconnect
/// cost reviews; longer, and a revoked token admits for longer.
const GOOD_FOR: Duration = Duration::from_secs(120);

/// How long a bad token is not reviewed again. Shorter, and an agent in a loop costs more than six
/// reviews a minute; longer, and a repaired cluster admits late.
const BAD_FOR: Duration = Duration::from_secs(10);

/// How long a token has to have expired to be refused without a review. Less refuses good tokens where
/// the clocks of this host and the API differ; more lets expired tokens cost reviews.
const LEEWAY: Duration = Duration::from_secs(60);

/// The account and audience of the tokens that admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The audience that a token must have.
    pub audience: String,
    /// The namespace of its service account.
    pub namespace: String,
    /// The name of its service account.
    pub service_account: String,
}

impl Expected {
    /// The user name of the service account.
    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.service_account)
    }
}

/// The holder of a good token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// The user name, `system:serviceaccount:NAMESPACE:NAME`.
    pub username: String,
    /// The node that the token is bound to: the one in the token, from Kubernetes 1.30 on, or else
    /// that of its pod.
    pub node_name: Option<String>,
    /// The pod that the token is bound to.
    pub pod_name: Option<String>,
}

type Verdict = Result<Reviewed, TokenError>;

/// A finished review, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewEvent {
    /// `good`, or the label of the error.
    pub outcome: &'static str,
    /// The token's wait and the review.
    pub latency: Duration,
}

/// Reviews tokens. Clones share memory and limits.
#[derive(Clone)]
pub struct TokenReviewer(Arc<Inner>);

struct Inner {
    client: Client,
    requests: Requests,
    expected: Expected,
    observe: Observe<ReviewEvent>,
    known: Mutex<Known>,
    /// The server was told once that it may not read pods.
    told: Once,
}

#[derive(Default)]
struct Known {
    memory: Memory,
    /// Reviews under way, each with the number of its waiters.
    flights: HashMap<Key, (Arc<OnceCell<Verdict>>, usize)>,
}

impl TokenReviewer {
    /// A reviewer that asks this cluster's API.
    pub fn new(cluster: &Cluster, expected: Expected, observe: Observe<ReviewEvent>) -> Self {
        Self(Arc::new(Inner {
            client: cluster.client.clone(),
            requests: Requests::new(cluster, PATIENCE, LIMIT),
            expected,
            observe,
            known: Mutex::default(),
            told: Once::new(),
        }))
    }

    /// Whether the verdict about a token is known without the API.
    pub fn knows(&self, token: &str) -> bool {
        self.0.known().memory.recall(Key::of(token), Instant::now()).is_some()
    }

    /// Reviews a token and returns its admitted holder, within 9 s. Cancel safe: a
    /// review with other waiters goes on.
    ///
    /// # Errors
    /// When the token does not admit, or the API cannot be asked.
    pub async fn review(&self, token: &str) -> Verdict {
        let claims = Claims::read(token)?;
        self.0.refuse(&claims, SystemTime::now())?;
        let flight = match self.0.join_or_recall(Key::of(token)) {
            Ok(flight) => flight,
            Err(verdict) => return verdict,
        };
        let review = || async {
            let verdict = self.0.review(token, &claims).await;
            self.0.remember(flight.key, &verdict, &claims);
            verdict
        };
        flight.cell.get_or_init(review).await.clone()
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses by its own words a token that the API would refuse, too. Nothing vouches for them, so
    /// they admit nobody.
    fn refuse(&self, claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
        let expected = &self.expected;
        if claims.lasts(now.checked_sub(LEEWAY).unwrap_or(now)) == Some(Duration::ZERO) {
            return Err(TokenError::Expired("by its own words".to_owned()));
        }
        let came = claims.audiences();
        // The API decides for which audience an old token without any is.
        if !came.is_empty() && !claims.is_for(&expected.audience) {
            return Err(TokenError::WrongAudience { expected: expected.audience.clone(), came });
        }
        match claims.subject() {
            Some(came) if came != expected.username() => {
                Err(TokenError::WrongAccount { expected: expected.username(), came: printable(came) })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Joins the review of a token, which is under way or to be made.
    ///
    /// # Errors
    /// With the verdict, if it is known.
    fn join_or_recall(&self, key: Key) -> Result<Flight<'_>, Verdict> {
        let mut known = self.known();
        if let Some(verdict) = known.memory.recall(key, Instant::now()) {
            return Err(verdict);
        }
        if known.flights.len() >= MOST_REVIEWS && !known.flights.contains_key(&key) {
            return Err(Err(TokenError::Busy));
        }
        let (cell, waiting) = known.flights.entry(key).or_default();
        *waiting += 1;
        Ok(Flight { inner: self, key, cell: Arc::clone(cell) })
    }

    fn remember(&self, key: Key, verdict: &Verdict, claims: &Claims) {
        let lasts = match verdict {
            Ok(_) => claims.lasts(SystemTime::now()).map_or(GOOD_FOR, |lasts| lasts.min(GOOD_FOR)),
            Err(error) if error.is_temporary() => Duration::ZERO,
            Err(_) => BAD_FOR,
        };
        self.known().memory.keep(key, verdict, lasts, Instant::now());
    }

    async fn review(&self, token: &str, claims: &Claims) -> Verdict {
        let began = Instant::now();
        let verdict = match self.requests.run(self.examine(token, claims)).await {
            Ok(verdict) => verdict,
            Err(RequestError::Busy) => Err(TokenError::Busy),
            Err(error) => Err(TokenError::ReviewFailed(error.to_string())),
        };
        let outcome = verdict.as_ref().map_or_else(TokenError::label, |_| "good");
        (self.observe)(ReviewEvent { outcome, latency: began.elapsed() });
        verdict
    }

    async fn examine(&self, token: &str, claims: &Claims) -> Result<Verdict, RequestError> {
        let (mut holder, uid) = match judge(self.ask(token).await?, &self.expected, claims) {
            Ok(judged) => judged,
            Err(error) => return Ok(Err(error)),
        };
        let (None, Some(name), Some(uid)) = (&holder.node_name, &holder.pod_name, uid) else {
            return Ok(Ok(holder));
        };
        let pod = Bound { namespace: self.expected.namespace.clone(), name: name.clone(), uid };
        match pod::node_of(&self.client, &pod).await? {
            Found::Node(node) => holder.node_name = Some(node),
            Found::Gone => {
                return Ok(Err(TokenError::Invalidated(format!("no pod {} has its uid", printable(name)))));
            }
            Found::Forbidden => self.told.call_once(|| {
                let namespace = pod.namespace;
                warn!(
                    namespace,
                    "agents' tokens do not name their node, and the server may not get pods: agents \
                     prove no node; give the server `get` on pods of this namespace"
                );
            }),
            Found::Unknown => {}
        }
        Ok(Ok(holder))
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, RequestError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![self.expected.audience.clone()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let answer: TokenReview = post(&self.client, PATH, &review).await?;
        Ok(answer.status.unwrap_or_default())
    }
}

/// The verdict of the API's answer, with the uid of a good token's pod.
fn judge(
    status: TokenReviewStatus,
    expected: &Expected,
    claims: &Claims,
) -> Result<(Reviewed, Option<String>), TokenError> {
    let wrong_audience = |came| TokenError::WrongAudience { expected: expected.audience.clone(), came };
    if !status.authenticated.unwrap_or_default() {
        // The API's own text for this differs by version.
        if !claims.is_for(&expected.audience) {
            return Err(wrong_audience(claims.audiences()));
        }
        let why = status.error.filter(|text| !text.is_empty());
        let why = why.unwrap_or_else(|| "it is not known there".to_owned());
        return Err(TokenError::unauthenticated(printable(&why)));
    }
    // An authenticator without audiences names none and accepts every token of the
    // cluster, which is no proof.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.contains(&expected.audience) {
        return Err(wrong_audience(audiences.iter().map(|text| printable(text)).collect()));
    }
    let user = status.user.unwrap_or_default();
    let (username, admitted) = (user.username.unwrap_or_default(), expected.username());
    if username != admitted {
        return Err(TokenError::WrongAccount { expected: admitted, came: printable(&username) });
    }
    let mut extra = user.extra.unwrap_or_default();
    let mut only = |name| only(&mut extra, name);
    let holder = Reviewed { username, node_name: only("node-name"), pod_name: only("pod-name") };
    Ok((holder, only("pod-uid")))
}

/// The value of an extra with exactly one; several prove none of them.
fn only(extra: &mut BTreeMap<String, Vec<String>>, name: &str) -> Option<String> {
    let mut values = extra.remove(&format!("authentication.kubernetes.io/{name}"))?;
    (values.len() == 1).then(|| values.pop()).flatten()
}

/// One waiter of a review.
struct Flight<'a> {
    inner: &'a Inner,
    key: Key,
    cell: Arc<OnceCell<Verdict>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut known = self.inner.known();
        let Some((_, waiting)) = known.flights.get_mut(&self.key) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            known.flights.remove(&self.key);
        }
    }
}

impl fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviewer").field("expected", &self.0.expected).finish_non_exhaustive()
    }
}
