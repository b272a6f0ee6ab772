//! The events, and what each may cost. No sockets and no clock.

use clap::ValueEnum;
use measuring_kit::Link;
use serde::Serialize;

use super::world::{AGENTS, is_victim};

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Both victims are killed, and started again.
    Kill,
    /// Both victims are stopped for 5 s.
    Stop,
    /// Both victims are stopped for 20 s, longer than a tunnel on TCP may be silent.
    StopLong,
    /// The server is stopped for 5 s.
    StopServer,
    /// Nothing arrives from the victims for 5 s.
    CutUp,
    /// Nothing arrives at the victims for 5 s.
    CutDown,
    /// Nothing arrives from or at the victims for 5 s.
    CutBoth,
    /// The victims' connections come from other ports.
    Rebind,
    /// A router forgets the victims' UDP flows after forty packets, for 5 s.
    Forget,
    /// Packets of more than 1,200 bytes do not reach or leave the victims, for 5 s.
    Narrow,
    /// The victims' line carries 1 Mbit/s in each direction, for 8 s.
    Throttle,
    /// Strangers take all files of the server for 6 s.
    Files,
    /// The disk of all logs is full for 5 s.
    Disk,
    /// The clocks of server and victims jump by an hour: forward past the end of certificates, and backward.
    Clock,
    /// The API that reviews tokens fails, answers nonsense, and answers late, while an agent comes.
    Api,
    /// Dials through every agent to names for which its resolver has no answer, not even a refusal.
    Names,
}

impl Kind {
    pub(crate) fn all() -> Vec<Self> {
        Self::value_variants().to_vec()
    }

    /// The name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The event in a table.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Kill => "agent killed and started again",
            Self::Stop => "agent stopped for 5 s",
            Self::StopLong => "agent stopped for 20 s",
            Self::StopServer => "server stopped for 5 s",
            Self::CutUp => "network cut from the agent for 5 s",
            Self::CutDown => "network cut to the agent for 5 s",
            Self::CutBoth => "network cut both ways for 5 s",
            Self::Rebind => "NAT rebinding",
            Self::Forget => "router forgets flows for 5 s",
            Self::Narrow => "packets over 1,200 bytes lost for 5 s",
            Self::Throttle => "line of 1 Mbit/s for 8 s",
            Self::Files => "server out of files",
            Self::Disk => "disk of logs full",
            Self::Clock => "clocks jump by an hour",
            Self::Api => "API failing, lying and late",
            Self::Names => "2,000 look-ups without an answer",
        }
    }

    /// Whether dials to this agent may fail until the event is over.
    pub(crate) const fn touches(self, agent: usize) -> bool {
        match self {
            Self::Kill | Self::Stop | Self::StopLong | Self::CutUp | Self::CutDown | Self::CutBoth => {
                is_victim(agent)
            }
            Self::Rebind | Self::Forget | Self::Narrow | Self::Throttle => is_victim(agent),
            Self::StopServer | Self::Files => true,
            Self::Disk | Self::Clock | Self::Api | Self::Names => false,
        }
    }

    /// Whether canaries of this agent may end. TCP does not outlive a rebinding, and a tunnel on it ends after 15 s
    /// of silence.
    pub(crate) const fn may_end(self, agent: usize) -> bool {
        let is_on_h2 = matches!(AGENTS[agent].link, Link::H2);
        match self {
            Self::Kill => is_victim(agent),
            Self::StopLong | Self::Rebind => is_victim(agent) && is_on_h2,
            Self::Stop
            | Self::StopServer
            | Self::CutUp
            | Self::CutDown
            | Self::CutBoth
            | Self::Forget
            | Self::Narrow
            | Self::Throttle
            | Self::Files
            | Self::Disk
            | Self::Clock
            | Self::Api
            | Self::Names => false,
        }
    }
}

/// Observations of an event, beside those of canaries and dials.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// For the reader of the table.
    pub(crate) note: Option<String>,
    pub(crate) faults: Vec<String>,
    /// The event could not be had here. The note says why.
    pub(crate) missing: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bystanders_lose_nothing_and_whoever_loses_canaries_may_lose_dials() {
        for kind in Kind::all() {
            for agent in 0..AGENTS.len() {
                assert!(
                    !kind.may_end(agent) || (is_victim(agent) && kind.touches(agent)),
                    "{kind:?} {agent}"
                );
            }
        }
    }
}
