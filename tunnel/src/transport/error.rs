//! How tunnels and dials fail, on every link.

use tunnel_proto::refusal::Refusal;

use crate::duplex::Broken;
use crate::tls::refused_certificate;

/// A tunnel that could not be established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The configuration does not allow it.
    #[error("{0}")]
    Config(String),
    /// There was no connection, or it was lost.
    #[error("{0}")]
    Lost(String),
    /// The other side did not accept this one's certificate, or one did not speak TLS.
    #[error("tls: {0}")]
    Tls(String),
    /// This end refused the peer's certificate.
    #[error("tls: {text}")]
    Certificate {
        /// One of the names of [`refused_certificate`].
        reason: &'static str,
        /// The error of TLS.
        text: String,
    },
    /// The peer refused the tunnel.
    #[error("{0}")]
    Rejected(String),
    /// The peer left without a byte, as health checks of load balancers do.
    #[error("the peer said nothing")]
    SaidNothing,
    /// Too many other strangers came.
    #[error("too many others came")]
    Crowded,
    /// The handshake took too long.
    #[error("timed out")]
    Timeout,
}

impl HandshakeError {
    /// The failure of a handshake of TLS, by the text of this end's own error.
    pub fn tls(text: String) -> Self {
        match refused_certificate(&text) {
            Some(reason) => Self::Certificate { reason, text },
            None => Self::Tls(text),
        }
    }

    /// The name in metrics, with a name for each reason to refuse a certificate.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Certificate { reason, .. } => reason,
            Self::Config(_)
            | Self::Lost(_)
            | Self::Tls(_)
            | Self::Rejected(_)
            | Self::SaidNothing
            | Self::Crowded
            | Self::Timeout => self.label(),
        }
    }

    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Lost(_) => "lost",
            Self::Tls(_) | Self::Certificate { .. } => "tls",
            Self::Rejected(_) => "rejected",
            Self::SaidNothing => "said_nothing",
            Self::Crowded => "crowded",
            Self::Timeout => "timeout",
        }
    }
}

/// Why a tunnel is over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TunnelClosed(pub String);

/// Why a server's dial came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// The agent named the reason.
    #[error("{0}")]
    Refused(Refusal),
    /// The agent's answer is malformed.
    #[error("{0}")]
    BadAnswer(String),
    /// The agent is at its limit of streams, or reads nothing.
    #[error("the agent takes no more dials")]
    Busy,
    /// The dial's stream broke. The tunnel may live.
    #[error("{0}")]
    Broken(String),
    /// The tunnel is over.
    #[error("tunnel lost: {0}")]
    Lost(String),
}

impl From<Broken> for DialFailure {
    fn from(error: Broken) -> Self {
        match error {
            Broken::Stopped => Self::Busy,
            Broken::Protocol(why) => Self::BadAnswer(why),
            Broken::Lost(why) => Self::Lost(why),
            Broken::Reset | Broken::Overflow { .. } | Broken::Io(_) => Self::Broken(error.to_string()),
        }
    }
}
