//! Tokens of the right form, without a valid signature.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

/// Time of this process's first token. Expiries count from it, so the same call makes
/// the same token in the next second.
static BEGAN: LazyLock<Duration> =
    LazyLock::new(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());

/// A token for `audience` that expires `lasts` after the first one of this process.
/// The same arguments make the same token.
pub fn token(id: &str, audience: &str, lasts: Duration) -> String {
    let claims = json!({"jti": id, "aud": [audience], "exp": (*BEGAN + lasts).as_secs()});
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    let head = json!({"alg": "ES256"});
    format!("{}.{}.{}", part(head.to_string()), part(claims.to_string()), part("signature".to_owned()))
}
