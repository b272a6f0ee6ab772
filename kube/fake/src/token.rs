//! Tokens of the right shape, with signatures that nobody checks.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// A token that says it is for `audience` and expires after a while; `id` tells
/// it from others.
pub fn token(id: &str, audience: &str, lasts: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let claims = json!({"jti": id, "aud": [audience], "exp": (now + lasts).as_secs()});
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let head = json!({"alg": "ES256"});
    format!("{}.{}.{}", part(head.to_string()), part(claims.to_string()), part("signature".to_owned()))
}
