//! Token reviews, with the error texts of a kube-apiserver 1.20.

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use serde_json::{Value, json};

use crate::state::{FakeApi, Refused, Verb, ok};

pub(crate) async fn review(api: &FakeApi, mut review: Value) -> Result<Response, Refused> {
    api.admit(Verb::Review).await?;
    let token = review["spec"]["token"].as_str().ok_or_else(|| Refused::bad("no token"))?.to_owned();
    let asked: Vec<String> = strings(&review["spec"]["audiences"]);
    let holder = api.state().holders.get(&token).cloned();
    review["status"] = match holder {
        None => json!({"user": {}, "error": "invalid bearer token"}),
        Some(holder) => {
            let both: Vec<_> = holder.audiences.iter().filter(|audience| asked.contains(audience)).collect();
            // An authenticator without audiences names none.
            if both.is_empty() && !holder.audiences.is_empty() {
                let (had, wanted) = (&holder.audiences, &asked);
                let error = format!("token audiences {had:?} is invalid for the target audiences {wanted:?}");
                json!({"user": {}, "error": error})
            } else {
                let user =
                    json!({"username": holder.username, "uid": "uid-of-account", "extra": holder.extra});
                json!({"authenticated": true, "user": user, "audiences": both})
            }
        }
    };
    let mut response = ok(201, &review);
    // A real API has one connection for all requests of a client, and this one none that waits for more.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}
