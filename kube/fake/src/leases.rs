//! Leases: get, list, watch, create, update and delete.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::state::{FakeApi, Refused, Verb, ok, response};

/// Duration of a watch without `timeoutSeconds`.
pub(crate) const WATCH: Duration = Duration::from_secs(300);

pub(crate) async fn lease(
    api: &FakeApi,
    method: &Method,
    namespace: &str,
    name: Option<&str>,
    query: &[(String, String)],
    content: Value,
) -> Result<Response, Refused> {
    let value = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let watching = matches!(value("watch"), Some("true" | "1"));
    let selector = value("labelSelector").unwrap_or_default();
    match (method, name) {
        (&Method::GET, None) if watching => {
            api.admit(Verb::Watch).await?;
            let since = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            let lasts = value("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
            let lasts = lasts.map_or(WATCH, Duration::from_secs);
            Ok(watch(api, json!(namespace), selector, since, lasts))
        }
        (&Method::GET, None) => {
            api.admit(Verb::List).await?;
            Ok(list(api, namespace, selector))
        }
        (&Method::POST, None) => {
            let name = content["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            api.admit(Verb::Create).await?;
            create(api, (namespace.to_owned(), name), content)
        }
        (&Method::GET, Some(name)) => {
            api.admit(Verb::Get).await?;
            let found = api.state().leases.get(&(namespace.to_owned(), name.to_owned())).cloned();
            Ok(ok(200, &found.ok_or_else(|| Refused::new(404, "NotFound", name))?))
        }
        (&Method::PUT, Some(name)) => {
            api.admit(Verb::Update).await?;
            update(api, (namespace.to_owned(), name.to_owned()), content)
        }
        (&Method::DELETE, Some(name)) => {
            api.admit(Verb::Delete).await?;
            delete(api, &(namespace.to_owned(), name.to_owned()), &content)
        }
        _ => Err(Refused::new(405, "MethodNotAllowed", method.as_str())),
    }
}

fn list(api: &FakeApi, namespace: &str, selector: &str) -> Response {
    let state = api.state();
    let here = state.leases.iter().filter(|((of, _), lease)| of == namespace && selected(lease, selector));
    let items: Vec<_> = here.map(|(_, lease)| lease.clone()).collect();
    let metadata = json!({"resourceVersion": state.version.to_string()});
    let list = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "LeaseList", "metadata": metadata, "items": items});
    ok(200, &list)
}

fn create(api: &FakeApi, key: (String, String), lease: Value) -> Result<Response, Refused> {
    if api.state().leases.contains_key(&key) {
        return Err(Refused::new(409, "AlreadyExists", &key.1));
    }
    Ok(ok(201, &api.store(key, lease)))
}

fn update(api: &FakeApi, key: (String, String), lease: Value) -> Result<Response, Refused> {
    let old = api.state().leases.get(&key).cloned().ok_or_else(|| Refused::new(404, "NotFound", &key.1))?;
    let version = &lease["metadata"]["resourceVersion"];
    if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
        return Err(Refused::new(409, "Conflict", &key.1));
    }
    Ok(ok(200, &api.store(key, lease)))
}

fn delete(api: &FakeApi, key: &(String, String), options: &Value) -> Result<Response, Refused> {
    let old = api.state().leases.get(key).cloned().ok_or_else(|| Refused::new(404, "NotFound", &key.1))?;
    for condition in ["resourceVersion", "uid"] {
        let wanted = &options["preconditions"][condition];
        if !wanted.is_null() && *wanted != old["metadata"][condition] {
            return Err(Refused::new(409, "Conflict", condition));
        }
    }
    let deleted = api.drop_lease(key).ok_or_else(|| Refused::new(404, "NotFound", &key.1))?;
    Ok(ok(200, &deleted))
}

/// Events since a version, for `lasts` or until [`FakeApi::cut_watches`]. Without a namespace
/// those of nodes.
pub(crate) fn watch(
    api: &FakeApi,
    namespace: Value,
    selector: &str,
    since: u64,
    lasts: Duration,
) -> Response {
    let selector = selector.to_owned();
    let until = Instant::now() + lasts;
    let start = (api.clone(), since, api.version.subscribe(), api.cut.subscribe());
    let events = stream::unfold(start, move |(api, mut since, mut version, mut cut)| {
        let (namespace, selector) = (namespace.clone(), selector.clone());
        async move {
            loop {
                let next = api.state().history.iter().find(|(at, _, _)| *at > since).cloned();
                let Some((at, kind, lease)) = next else {
                    tokio::select! {
                        changed = version.changed() => changed.ok()?,
                        _ = cut.changed() => return None,
                        () = sleep_until(until) => return None,
                    }
                    continue;
                };
                since = at;
                if lease["metadata"]["namespace"] == namespace && selected(&lease, &selector) {
                    let event = format!("{}\n", json!({"type": kind, "object": lease}));
                    return Some((Ok::<_, std::io::Error>(event), (api, since, version, cut)));
                }
            }
        }
    });
    response(200, Body::from_stream(events))
}

/// Whether the object has all labels of `key=value,key=value`.
pub(crate) fn selected(lease: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        lease["metadata"]["labels"][key] == value
    })
}
