//! Tokens of the right shape, with signatures that nobody checks.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// When this process made its first token. Counting from there, the same call
/// makes the same token also in the next second.
static BEGAN: LazyLock<Duration> =
    LazyLock::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());

/// A token that says it is for `audience` and expires `lasts` after the first
/// one of this process; `id` tells it from others. The same arguments make the
/// same token.
pub fn token(id: &str, audience: &str, lasts: Duration) -> String {
    let claims = json!({"jti": id, "aud": [audience], "exp": (*BEGAN + lasts).as_secs()});
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let head = json!({"alg": "ES256"});
    format!("{}.{}.{}", part(head.to_string()), part(claims.to_string()), part("signature".to_owned()))
}
