//! A Kubernetes API with token reviews, Leases, nodes and pods, for tests. It has versions,
//! preconditions and watches, and fails on demand.

mod leases;
mod nodes;
mod pods;
mod reviews;
mod state;
mod token;

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{Request, State as Extracted};
use axum::http::Method;
use axum::response::Response;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use state::{FakeApi, Holder, Verb};
pub use token::token;

use state::Refused;

/// Longest request, in bytes.
const MAX_REQUEST: usize = 1024 * 1024;

/// A [`FakeApi`] on loopback; a drop ends it.
#[derive(Debug)]
pub struct Served {
    /// Its address, without TLS.
    pub at: SocketAddr,
    task: JoinHandle<()>,
}

impl Served {
    /// The content of its kubeconfig.
    pub fn kubeconfig(&self) -> String {
        let named = |kind: &str, content: Value| json!([{"name": "fake", kind: content}]);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": named("cluster", json!({"server": format!("http://{}", self.at)})),
            "users": named("user", json!({"token": "of-the-server"})),
            "contexts": named("context", json!({"cluster": "fake", "user": "fake"})),
        })
        .to_string()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeApi {
    /// Its routes, for calls without a network.
    pub fn router(&self) -> Router {
        Router::new().fallback(any(answer)).with_state(self.clone())
    }

    /// Serves on loopback.
    #[expect(clippy::disallowed_methods, reason = "tests have no drain of their own")]
    pub async fn serve(&self) -> std::io::Result<Served> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let routes = self.router();
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Served { at, task })
    }
}

async fn answer(Extracted(api): Extracted<FakeApi>, request: Request) -> Response {
    let result = dispatch(&api, request).await;
    result.unwrap_or_else(Refused::into_response)
}

async fn dispatch(api: &FakeApi, request: Request) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query: Vec<(String, String)> =
        form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let body = axum::body::to_bytes(body, MAX_REQUEST).await.map_err(|_| Refused::bad("body"))?;
    let content = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|_| Refused::bad("no JSON"))?
    };
    let parts_of_path: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (&parts.method, parts_of_path.as_slice()) {
        (&Method::POST, ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
            reviews::review(api, content).await
        }
        (method, ["apis", "coordination.k8s.io", "v1", "namespaces", namespace, "leases", name @ ..]) => {
            leases::lease(api, method, namespace, name.first().copied(), &query, content).await
        }
        (&Method::GET, ["api", "v1", "nodes"]) => nodes::nodes(api, &query).await,
        (&Method::GET, ["api", "v1", "namespaces", namespace, "pods", name]) => {
            pods::pod(api, namespace, name).await
        }
        _ => Err(Refused::new(404, "NotFound", &path)),
    }
}
