//! Authentication of agents beyond TLS.

use tunnel::transport::konnectivity::BearerError;
use tunnel_kube::{Reviewed, TokenError, TokenReviewer};
use tunnel_proto::message::RejectionKind;

/// Checks agents' tokens, if agents need them. Clones share their reviews.
#[derive(Debug, Clone)]
pub(crate) enum Authenticator {
    /// Agents need no token: TLS checks certificates, or the operator allows anonymous agents.
    Tls,
    /// Agents present tokens of a service account.
    Tokens(TokenReviewer),
}

/// Why an agent is not authenticated. The texts go to both logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthenticationError {
    /// The metadata of a konnectivity agent carries no token.
    #[error(transparent)]
    Bearer(#[from] BearerError),
    /// The token does not admit.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl AuthenticationError {
    /// The kind of the agent's rejection: `Unavailable` if the same token may admit later.
    pub(crate) const fn kind(&self) -> RejectionKind {
        match self {
            Self::Token(error) if error.is_temporary() => RejectionKind::Unavailable,
            Self::Bearer(_) | Self::Token(_) => RejectionKind::Unauthenticated,
        }
    }

    /// The name in metrics.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Bearer(BearerError::NoBearer) => "token_no_bearer",
            Self::Bearer(BearerError::Several(_)) => "token_several",
            Self::Token(error) => error.label(),
        }
    }
}

impl Authenticator {
    /// Whether agents need a token.
    pub(crate) const fn needs_tokens(&self) -> bool {
        matches!(self, Self::Tokens(_))
    }

    /// Whether the API is asked about this token.
    pub(crate) fn asks(&self, token: &Result<Option<String>, BearerError>) -> bool {
        match (self, token) {
            (Self::Tokens(reviewer), Ok(Some(token))) => !reviewer.knows(token),
            (Self::Tokens(_), Ok(None) | Err(_)) | (Self::Tls, _) => false,
        }
    }

    /// Reviews an agent's token and returns its holder; `None` where agents need no token. Takes
    /// nine seconds at most. Cancel safe.
    ///
    /// # Errors
    /// When the token does not admit, or cannot be reviewed.
    pub(crate) async fn check(
        &self,
        token: Result<Option<String>, BearerError>,
    ) -> Result<Option<Reviewed>, AuthenticationError> {
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
        let kind = |error| AuthenticationError::Token(error).kind();
        assert_eq!(kind(TokenError::Busy), RejectionKind::Unavailable);
        assert_eq!(kind(TokenError::ReviewFailed("down".to_owned())), RejectionKind::Unavailable);
        assert_eq!(kind(TokenError::Missing), RejectionKind::Unauthenticated);
        assert_eq!(
            AuthenticationError::Bearer(BearerError::Several(2)).kind(),
            RejectionKind::Unauthenticated
        );
    }

    #[tokio::test]
    async fn where_tls_decides_tokens_are_not_looked_at() {
        assert_eq!(Authenticator::Tls.check(Ok(None)).await, Ok(None));
        assert_eq!(Authenticator::Tls.check(Err(BearerError::Several(2))).await, Ok(None));
    }
}
