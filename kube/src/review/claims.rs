//! The claims of a service-account token, unverified. They explain a refusal and
//! bound the time for which a verdict is remembered.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::error::{MAX_TOKEN, TokenError};

/// Most audiences in an error text.
const MAX_SHOWN: usize = 4;

/// Longest audience in an error text, in characters.
const MAX_AUDIENCE: usize = 128;

/// The claims that are used. Nothing vouches for them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Claims {
    #[serde(default)]
    exp: Option<f64>,
    #[serde(default)]
    aud: Audiences,
    #[serde(default)]
    sub: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Claims {
    /// Reads the claims of a token: three parts in base64url, the middle one a JSON
    /// object (RFC 7519).
    ///
    /// # Errors
    /// When the text is no such token.
    pub fn read(token: &str) -> Result<Self, TokenError> {
        if token.is_empty() {
            return Err(TokenError::Missing);
        }
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Oversized { length: token.len() });
        }
        let parts: Vec<&str> = token.splitn(4, '.').collect();
        let &[head, claims, signature] = parts.as_slice() else { return Err(TokenError::Malformed) };
        for part in [head, signature] {
            if part.is_empty() || URL_SAFE_NO_PAD.decode(part).is_err() {
                return Err(TokenError::Malformed);
            }
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Malformed)?;
        serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)
    }

    /// Time until the token expires: zero when it has expired, `None` when it never
    /// does.
    pub fn lasts(&self, now: SystemTime) -> Option<Duration> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.exp.map(|exp| Duration::try_from_secs_f64(exp - since).unwrap_or(Duration::ZERO))
    }

    /// The audiences, shortened for an error text.
    pub fn audiences(&self) -> Vec<String> {
        let short = |text: &String| text.chars().filter(|c| !c.is_control()).take(MAX_AUDIENCE).collect();
        self.aud().iter().take(MAX_SHOWN).map(short).collect()
    }

    /// Whether the token names `audience`. One without audiences is for the API
    /// server alone.
    pub fn is_for(&self, audience: &str) -> bool {
        self.aud().iter().any(|one| one == audience)
    }

    /// The subject: of a service account's token, its user name.
    pub fn subject(&self) -> Option<&str> {
        self.sub.as_deref()
    }

    fn aud(&self) -> &[String] {
        match &self.aud {
            Audiences::One(one) => std::slice::from_ref(one),
            Audiences::Several(several) => several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{\"alg\":\"ES256\"}"), part(claims), part("signature"))
    }

    #[test]
    fn other_texts_are_refused_by_their_kind() {
        assert_eq!(Claims::read(""), Err(TokenError::Missing));
        assert_eq!(
            Claims::read(&"x".repeat(MAX_TOKEN + 1)),
            Err(TokenError::Oversized { length: MAX_TOKEN + 1 })
        );
        for bad in ["x", "a.b", "a.b.c.d", "..", "a.!.c", "a b.c.d", &token("no json"), &token("[]")[1..]] {
            assert_eq!(Claims::read(bad), Err(TokenError::Malformed), "{bad}");
        }
        assert_eq!(Claims::read(&format!("{}\n", token("{}"))), Err(TokenError::Malformed));
    }

    #[test]
    fn audiences_are_a_string_or_a_list() {
        let one = Claims::read(&token(r#"{"aud":"a"}"#)).unwrap();
        assert!(one.is_for("a") && !one.is_for("b"));
        let two = Claims::read(&token(r#"{"aud":["a","b"],"exp":1e3}"#)).unwrap();
        assert!(two.is_for("a") && two.is_for("b") && !two.is_for("c"));
        let none = Claims::read(&token("{}")).unwrap();
        assert!(!none.is_for(""));
        let many = format!(r#"{{"aud":[{}]}}"#, vec!["\"x\""; 1000].join(","));
        assert_eq!(Claims::read(&token(&many)).unwrap().audiences().len(), MAX_SHOWN);
    }

    #[test]
    fn a_token_lasts_until_its_expiry() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let lasts = |claims: &str| Claims::read(&token(claims)).unwrap().lasts(now);
        assert_eq!(lasts(r#"{"exp":1600}"#), Some(Duration::from_secs(600)));
        assert_eq!(lasts(r#"{"exp":999}"#), Some(Duration::ZERO));
        assert_eq!(lasts(r#"{"exp":-1e300}"#), Some(Duration::ZERO));
        assert_eq!(lasts("{}"), None);
        // Over the range of a Duration.
        assert_eq!(lasts(r#"{"exp":1e300}"#), Some(Duration::ZERO));
    }
}
