//! Who is taken for an agent, where its certificate is not all there is to it.

use tunnel::transport::konnectivity::BearerError;
use tunnel_kube::{Reviewed, TokenError, TokenReviewer};
use tunnel_proto::message::RejectionKind;

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
    /// The metadata of a konnectivity agent carries no token.
    #[error(transparent)]
    Bearer(#[from] BearerError),
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
            Self::Bearer(_) => false,
            Self::Token(error) => error.is_temporary(),
        }
    }

    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Bearer(BearerError::NoBearer) => "token_no_bearer",
            Self::Bearer(BearerError::Several(_)) => "token_several",
            Self::Token(error) => error.label(),
        }
    }
}

impl Authenticator {
    /// Whether the presenter of this token is an agent, and the facts that the token proves;
    /// `None` where agents need no token. Takes nine seconds at most. Cancel safe.
    ///
    /// # Errors
    /// When it is not an agent, or when that cannot be found out.
    pub async fn check(
        &self,
        token: Result<Option<String>, BearerError>,
    ) -> Result<Option<Reviewed>, Rejected> {
        match self {
            Self::Tls => Ok(None),
            Self::Tokens(reviewer) => Ok(Some(reviewer.review(&token?.unwrap_or_default()).await?)),
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
        assert_eq!(Rejected::Bearer(BearerError::Several(2)).kind(), RejectionKind::Unauthenticated);
    }

    #[tokio::test]
    async fn where_tls_decides_tokens_are_not_looked_at() {
        assert_eq!(Authenticator::Tls.check(Ok(None)).await, Ok(None));
        assert_eq!(Authenticator::Tls.check(Err(BearerError::Several(2))).await, Ok(None));
    }
}
