//! The state of the API, and the controls of a test.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// A Lease is created.
    Create,
    /// A Lease is deleted.
    Delete,
    /// A Lease is read.
    Get,
    /// A pod is read.
    GetPod,
    /// Leases are listed.
    List,
    /// Nodes are listed, a page of them.
    ListNodes,
    /// A token is reviewed.
    Review,
    /// A Lease is written.
    Update,
    /// Leases are watched.
    Watch,
    /// Nodes are watched.
    WatchNodes,
}

/// The holder of a token.
#[derive(Debug, Clone, Default)]
pub struct Holder {
    /// The user name.
    pub username: String,
    /// The audiences of the token.
    pub audiences: Vec<String>,
    /// The `extra` of the review, by name.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A Kubernetes API. Clones are the same one.
#[derive(Debug, Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    pub(crate) version: watch::Sender<u64>,
    pub(crate) held: watch::Sender<bool>,
    pub(crate) cut: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) version: u64,
    pub(crate) holders: HashMap<String, Holder>,
    pub(crate) leases: BTreeMap<(String, String), Value>,
    pub(crate) nodes: BTreeMap<String, Value>,
    pub(crate) pods: BTreeMap<(String, String), Value>,
    /// Every change: its version, its type, its object.
    pub(crate) history: Vec<(u64, &'static str, Value)>,
    failures: HashMap<Verb, (u16, &'static str)>,
    lies: HashMap<Verb, &'static str>,
    asked: Vec<Verb>,
}

impl Default for FakeApi {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            version: watch::Sender::new(0),
            held: watch::Sender::new(false),
            cut: watch::Sender::new(0),
        }
    }
}

impl FakeApi {
    /// One without holders and Leases.
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a token good.
    pub fn know(&self, token: &str, holder: Holder) {
        self.state().holders.insert(token.to_owned(), holder);
    }

    /// Makes a token bad.
    pub fn forget(&self, token: &str) {
        self.state().holders.remove(token);
    }

    /// Fails requests of a kind from now on, with this status and reason; `None`
    /// ends that.
    pub fn fail(&self, verb: Verb, with: Option<(u16, &'static str)>) {
        let failures = &mut self.state().failures;
        match with {
            Some(with) => failures.insert(verb, with),
            None => failures.remove(&verb),
        };
    }

    /// Answers requests of a kind with this text and success from now on; `None` ends that.
    pub fn lie(&self, verb: Verb, with: Option<&'static str>) {
        let lies = &mut self.state().lies;
        match with {
            Some(with) => lies.insert(verb, with),
            None => lies.remove(&verb),
        };
    }

    /// Holds all answers back, or releases them.
    pub fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Ends all watches.
    pub fn cut_watches(&self) {
        self.cut.send_modify(|cut| *cut += 1);
    }

    /// The number of requests of a kind.
    pub fn asked(&self, verb: Verb) -> usize {
        self.state().asked.iter().filter(|asked| **asked == verb).count()
    }

    /// All Leases of a namespace, by name.
    pub fn leases(&self, namespace: &str) -> BTreeMap<String, Value> {
        let state = self.state();
        let here = state.leases.iter().filter(|((of, _), _)| of == namespace);
        here.map(|((_, name), lease)| (name.clone(), lease.clone())).collect()
    }

    /// Creates a Lease or writes over it, as another client would.
    pub fn put_lease(&self, namespace: &str, name: &str, labels: &Value, spec: &Value) {
        let key = (namespace.to_owned(), name.to_owned());
        let metadata = json!({"name": name, "namespace": namespace, "labels": labels});
        self.store(key, json!({"metadata": metadata, "spec": spec}));
    }

    /// Sets an annotation of a Lease that there is, as another client would.
    pub fn annotate_lease(&self, namespace: &str, name: &str, annotation: &str, value: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let lease = self.state().leases.get(&key).cloned();
        let mut lease = lease.unwrap_or_else(|| panic!("there is no Lease {name}"));
        lease["metadata"]["annotations"][annotation] = json!(value);
        self.store(key, lease);
    }

    /// Deletes a Lease, as another client would.
    pub fn delete_lease(&self, namespace: &str, name: &str) {
        self.drop_lease(&(namespace.to_owned(), name.to_owned()));
    }

    /// Counts a request, waits while answers are held back, and fails it or lies on demand.
    pub(crate) async fn admit(&self, verb: Verb) -> Result<(), Refused> {
        self.state().asked.push(verb);
        let mut held = self.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let state = self.state();
        if let Some(text) = state.lies.get(&verb) {
            return Err(Refused(200, (*text).to_owned()));
        }
        match state.failures.get(&verb) {
            Some(&(code, reason)) => Err(Refused::new(code, reason, "as the test asked")),
            None => Ok(()),
        }
    }

    /// Stores a Lease under a new version.
    pub(crate) fn store(&self, key: (String, String), mut lease: Value) -> Value {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        let kind = if state.leases.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        lease["apiVersion"] = json!("coordination.k8s.io/v1");
        lease["kind"] = json!("Lease");
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        let uid = match state.leases.get(&key) {
            Some(old) => old["metadata"]["uid"].clone(),
            None => json!(format!("uid-{version}")),
        };
        lease["metadata"]["uid"] = uid;
        state.leases.insert(key, lease.clone());
        state.history.push((version, kind, lease.clone()));
        drop(state);
        self.version.send_replace(version);
        lease
    }

    pub(crate) fn drop_lease(&self, key: &(String, String)) -> Option<Value> {
        let mut state = self.state();
        let mut lease = state.leases.remove(key)?;
        state.version += 1;
        let version = state.version;
        lease["metadata"]["resourceVersion"] = json!(version.to_string());
        state.history.push((version, "DELETED", lease.clone()));
        drop(state);
        self.version.send_replace(version);
        Some(lease)
    }
}

/// An answer in place of the one that was asked for: a `Status` of failure, or a lie.
#[derive(Debug)]
pub(crate) struct Refused(u16, String);

impl Refused {
    pub(crate) fn new(code: u16, reason: &str, message: &str) -> Self {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure",
            "code": code, "reason": reason, "message": message, "metadata": {},
        });
        Self(code, status.to_string())
    }

    pub(crate) fn bad(message: &str) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn into_response(self) -> Response {
        response(self.0, Body::from(self.1))
    }
}

pub(crate) fn ok(code: u16, content: &Value) -> Response {
    response(code, Body::from(content.to_string()))
}

/// An answer in JSON.
pub(crate) fn response(code: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = axum::http::StatusCode::from_u16(code).unwrap_or_default();
    let json = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, json);
    response
}
