//! Reasons why dials fail or are given up.

use tunnel_policy::Denied;
use tunnel_proto::refusal::{Refusal, RefusalKind};

/// Why a client does not get its connection. `agent` is the id of the agent that was asked last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No agent is connected. Runbooks search for this text. `hint` names the last agent.
    #[error("No agent available{hint}")]
    NoAgent { hint: String },
    /// Agents are connected, but none for this host. `hint` names the last one that was.
    #[error("no agent serves {host}{hint}")]
    NoneServes { host: String, hint: String },
    /// The policy of this server refuses the target.
    #[error(transparent)]
    Denied(Denied),
    /// The tunnel or the stream broke before the answer came.
    #[error("agent {agent} was lost while dialling {target}: {why}")]
    AgentLost {
        agent: String,
        target: String,
        why: String,
        /// Whether the agent is only silent, and may have reached the target.
        silent: bool,
    },
    /// The agent is at its limit of streams, or reads nothing.
    #[error("agent {agent} takes no more dials")]
    AgentBusy { agent: String },
    /// The agent refused. The text is Go's for the same failure, without the agent's name,
    /// which is in the log.
    #[error("{refusal}")]
    Refused { agent: String, refusal: Refusal },
    /// The agent did not answer within the limit of a dial.
    #[error("agent {agent} did not answer the dial of {target} within {seconds}s: timeout")]
    Timeout { agent: String, target: String, seconds: u64 },
    /// The agent's answer is malformed.
    #[error("agent {agent} answered the dial with nonsense: {why}")]
    BadAnswer { agent: String, why: String },
}

impl DialError {
    pub(crate) fn agent(&self) -> Option<&str> {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } | Self::Denied(_) => None,
            Self::AgentLost { agent, .. }
            | Self::AgentBusy { agent }
            | Self::Refused { agent, .. }
            | Self::Timeout { agent, .. }
            | Self::BadAnswer { agent, .. } => Some(agent),
        }
    }

    /// The name in metrics and logs.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::NoAgent { .. } | Self::NoneServes { .. } => "no_agent",
            Self::Denied(_) => RefusalKind::Forbidden.label(),
            Self::AgentLost { .. } => "agent_lost",
            Self::AgentBusy { .. } => "agent_busy",
            Self::Refused { refusal, .. } => refusal.kind.label(),
            Self::Timeout { .. } => "timeout",
            Self::BadAnswer { .. } => "bad_answer",
        }
    }

    /// Whether the agent drains, by its own word.
    pub(super) const fn is_of_a_draining_agent(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. } if matches!(refusal.kind, RefusalKind::Draining))
    }

    /// Whether another agent may be asked, because nothing reached the target.
    pub(super) fn is_worth_another_agent(&self) -> bool {
        match self {
            Self::AgentLost { silent, .. } => !*silent,
            Self::AgentBusy { .. } => true,
            Self::Refused { refusal, .. } => refusal.reached_nothing(),
            Self::NoAgent { .. }
            | Self::NoneServes { .. }
            | Self::Denied(_)
            | Self::Timeout { .. }
            | Self::BadAnswer { .. } => false,
        }
    }
}

/// Why a dial was given up without the failure of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The client's request names no target.
    BadRequest,
    /// The client left, or cancelled the dial.
    Cancelled,
    /// The server was killed.
    Killed,
    /// The client broke the protocol before the answer.
    Nonsense,
    /// The dial succeeded, but the client had left.
    Unanswered,
}

impl GivenUp {
    /// The name in metrics and logs.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Nonsense => "bad_request",
            Self::Cancelled => "cancelled",
            Self::Killed => "killed",
            Self::Unanswered => "unanswered",
        }
    }
}
