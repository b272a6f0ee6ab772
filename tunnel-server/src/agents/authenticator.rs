//! Who is taken for an agent, where its certificate is not all there is to it.

use tunnel_kube::{Reviewed, TokenError, TokenReviewer};
use tunnel_proto::message::RejectionKind;

/// How the metadata of Konnectivity's agents begins. The case counts, as it
/// does for Konnectivity's server.
const BEARER: &str = "Bearer ";

/// Finds out whether somebody is an agent. Clones share their reviews.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// TLS has found out: the listener asks for certificates, or the operator
    /// wants agents that nobody knows.
    Tls,
    /// Agents present tokens of a service account.
    Tokens(TokenReviewer),
}

/// Somebody who is not taken for an agent. The texts are for both logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The metadata is there, but is no token.
    #[error("the authorization metadata of the agent does not begin with {BEARER:?}")]
    NoBearer,
    /// There is more than one, so it is not clear which one counts.
    #[error("the agent sent {0} values of authorization metadata instead of one")]
    Several(usize),
    /// The token does not admit.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl Rejected {
    /// What an agent is told.
    pub const fn kind(&self) -> RejectionKind {
        if self.is_temporary() { RejectionKind::Unavailable } else { RejectionKind::Unauthenticated }
    }

    /// Whether the same agent may be admitted a moment later.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::NoBearer | Self::Several(_) => false,
            Self::Token(error) => error.is_temporary(),
        }
    }

    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoBearer => "token_no_bearer",
            Self::Several(_) => "token_several",
            Self::Token(error) => error.label(),
        }
    }
}

impl Authenticator {
    /// Whether the bearer of this token is an agent, and what the token proves
    /// of it; `None` where agents need no token. Takes nine seconds at most.
    /// Cancel safe.
    ///
    /// # Errors
    /// When it is not, or when that cannot be found out.
    pub async fn check(&self, token: Option<&str>) -> Result<Option<Reviewed>, Rejected> {
        match self {
            Self::Tls => Ok(None),
            Self::Tokens(reviewer) => Ok(Some(reviewer.review(token.unwrap_or_default()).await?)),
        }
    }

    /// The same for an agent that speaks gRPC: `values` is all of its call's
    /// `authorization` metadata. Cancel safe.
    ///
    /// # Errors
    /// As [`Authenticator::check`], and when that is not one bearer token.
    pub async fn check_metadata(&self, values: &[&str]) -> Result<Option<Reviewed>, Rejected> {
        match (self, values) {
            (Self::Tls, _) => Ok(None),
            (Self::Tokens(_), []) => self.check(None).await,
            (Self::Tokens(_), [value]) => {
                // Such agents send their file as it is.
                let token = value.strip_prefix(BEARER).ok_or(Rejected::NoBearer)?;
                self.check(Some(token.trim_ascii())).await
            }
            (Self::Tokens(_), several) => Err(Rejected::Several(several.len())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_come_again_is_told_so() {
        let kind = |error| Rejected::Token(error).kind();
        assert_eq!(kind(TokenError::Busy), RejectionKind::Unavailable);
        assert_eq!(kind(TokenError::ReviewFailed("down".to_owned())), RejectionKind::Unavailable);
        assert_eq!(kind(TokenError::Missing), RejectionKind::Unauthenticated);
        assert_eq!(Rejected::Several(2).kind(), RejectionKind::Unauthenticated);
    }

    #[tokio::test]
    async fn where_tls_decides_tokens_are_not_looked_at() {
        assert_eq!(Authenticator::Tls.check(None).await, Ok(None));
        assert_eq!(Authenticator::Tls.check_metadata(&["Basic x", "y"]).await, Ok(None));
    }
}
