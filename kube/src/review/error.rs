//! Errors of a token.

/// Longest token, in bytes. Those of clusters have about 1,000; more is memory for
/// a stranger.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// Why a token does not admit. The texts go to the agent and to both logs, without
/// the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Too many tokens wait for their review.
    #[error(
        "too many tokens wait for their review: try again later, or raise --kubeconfig-qps and \
         --kubeconfig-burst of the server"
    )]
    Busy,
    /// The token has expired.
    #[error("the Kubernetes API does not accept the token, which has expired: {0}")]
    Expired(String),
    /// The token was bound to an object that is gone.
    #[error("the Kubernetes API does not accept the token, whose pod, node or service account is gone: {0}")]
    Invalidated(String),
    /// No service-account token.
    #[error("the token is no service-account token: it has not the three parts of a signed one")]
    Malformed,
    /// No token.
    #[error(
        "the agent sent no token, and this server admits agents by their service-account token only: give \
         the agent --service-account-token-path"
    )]
    Missing,
    /// Longer than any service-account token.
    #[error("the token has {length} bytes, more than the {MAX_TOKEN} that a service-account token may have")]
    Oversized {
        /// Length in bytes.
        length: usize,
    },
    /// The API could not be asked.
    #[error("the token could not be reviewed: {0}")]
    ReviewFailed(String),
    /// The API does not accept the token for another reason, such as a signature that is not the
    /// cluster's.
    #[error("the Kubernetes API does not accept the token: {0}")]
    Unauthenticated(String),
    /// A token of another account.
    #[error("the token belongs to {came:?}, and this server admits {expected:?} only")]
    WrongAccount {
        /// The admitted user name.
        expected: String,
        /// The token's user name.
        came: String,
    },
    /// A token for another audience.
    #[error(
        "the token is meant for the audience {came:?} and not for {expected:?}: set that audience in the \
         projected volume of the agent's pod"
    )]
    WrongAudience {
        /// The admitted audience.
        expected: String,
        /// The token's audiences.
        came: Vec<String>,
    },
}

impl TokenError {
    /// The error of an API that does not accept a token, by its words: "service account token has
    /// expired" or "has been invalidated" (Kubernetes, `pkg/serviceaccount/claims.go`).
    pub(super) fn unauthenticated(why: String) -> Self {
        let says = |words| why.to_ascii_lowercase().contains(words);
        if says("token has expired") {
            Self::Expired(why)
        } else if says("token has been invalidated") {
            Self::Invalidated(why)
        } else {
            Self::Unauthenticated(why)
        }
    }

    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Busy => "reviews_busy",
            Self::Expired(_) => "token_expired",
            Self::Invalidated(_) => "token_invalidated",
            Self::Malformed => "token_malformed",
            Self::Missing => "token_missing",
            Self::Oversized { .. } => "token_oversized",
            Self::ReviewFailed(_) => "review_failed",
            Self::Unauthenticated(_) => "token_unauthenticated",
            Self::WrongAccount { .. } => "token_wrong_account",
            Self::WrongAudience { .. } => "token_wrong_audience",
        }
    }

    /// Whether the same token may be admitted later, because the API was at fault.
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Busy | Self::ReviewFailed(_) => true,
            Self::Expired(_)
            | Self::Invalidated(_)
            | Self::Malformed
            | Self::Missing
            | Self::Oversized { .. }
            | Self::Unauthenticated(_)
            | Self::WrongAccount { .. }
            | Self::WrongAudience { .. } => false,
        }
    }
}
