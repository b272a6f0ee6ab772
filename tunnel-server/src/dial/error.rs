//! Why dials come to nothing.

use tunnel_proto::refusal::{Refusal, RefusalKind};

/// Why a client does not get its connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No agent is connected at all. Runbooks search for this text.
    #[error("No agent available{hint}")]
    NoAgent {
        /// Which agent was the last and when, if there was one.
        hint: String,
    },
    /// Agents are connected, but none for this target.
    #[error("no agent serves {host}{hint}")]
    NoneServes {
        /// The target's host.
        host: String,
        /// When one last did, if one did.
        hint: String,
    },
    /// The tunnel broke before the answer came.
    #[error("agent {agent} was lost while dialling {target}: {why}")]
    AgentLost {
        /// The agent's id.
        agent: String,
        /// What was dialled.
        target: String,
        /// What happened to the tunnel.
        why: String,
    },
    /// The agent is at its limit of streams, or reads nothing.
    #[error("agent {agent} takes no more dials")]
    AgentBusy {
        /// The agent's id.
        agent: String,
    },
    /// The agent answered "no". The text is Go's for the same failure, without
    /// the agent's name, which is in the log.
    #[error("{refusal}")]
    Refused {
        /// The agent's id.
        agent: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// The agent did not answer.
    #[error("agent {agent} did not answer the dial of {target} within {seconds}s: timeout")]
    Timeout {
        /// The agent's id.
        agent: String,
        /// What was dialled.
        target: String,
        /// The limit.
        seconds: u64,
    },
    /// The agent's answer made no sense.
    #[error("agent {agent} answered the dial with nonsense: {why}")]
    BadAnswer {
        /// The agent's id.
        agent: String,
        /// What is wrong with it.
        why: String,
    },
}

impl DialError {
    /// The agent that was asked last, if one was.
    pub fn agent(&self) -> Option<&str> {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => None,
            Self::AgentLost { agent, .. }
            | Self::AgentBusy { agent }
            | Self::Refused { agent, .. }
            | Self::Timeout { agent, .. }
            | Self::BadAnswer { agent, .. } => Some(agent),
        }
    }

    /// The name in metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => "no_agent",
            Self::AgentLost { .. } => "agent_lost",
            Self::AgentBusy { .. } => "agent_busy",
            Self::Refused { refusal, .. } => refusal.kind.label(),
            Self::Timeout { .. } => "timeout",
            Self::BadAnswer { .. } => "bad_answer",
        }
    }

    /// Whether another agent may be asked: nothing reached the target.
    pub(super) const fn is_worth_another_agent(&self) -> bool {
        match self {
            Self::AgentLost { .. } | Self::AgentBusy { .. } => true,
            Self::Refused { refusal, .. } => {
                matches!(refusal.kind, RefusalKind::Busy | RefusalKind::Draining)
            }
            Self::NoAgent { .. }
            | Self::NoneServes { .. }
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// Why a dial came to nothing although no agent failed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// The client's request names no target.
    BadRequest,
    /// The client left, or cancelled the dial.
    Cancelled,
    /// This server stops.
    Killed,
    /// The client broke the protocol before it had the answer.
    Nonsense,
    /// The client left before the answer.
    Unanswered,
}

impl GivenUp {
    /// The name in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Nonsense => "bad_request",
            Self::Cancelled => "cancelled",
            Self::Killed => "killed",
            Self::Unanswered => "unanswered",
        }
    }
}
