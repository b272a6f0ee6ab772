//! The places where a session can be played: who plays it, and on which link or to which frontend.

use std::fmt;
use std::str::FromStr;

/// A side and its link or frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// An agent of a server.
    AgentQuic,
    /// As above; there agents serve HTTP/2.
    AgentH2,
    /// As above.
    AgentKonnectivity,
    /// A server of an agent.
    ServerQuic,
    /// As above; there servers call.
    ServerH2,
    /// As above.
    ServerKonnectivity,
    /// A client of a server that sends HTTP CONNECT.
    ClientConnect,
    /// A client of a server that speaks gRPC.
    ClientGrpc,
}

/// The protocol of a lane's bytes, as far as mutations and the count of events know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Streams of messages behind two bytes of length.
    Quic,
    /// HTTP/2 with such messages in its streams.
    Http2,
    /// HTTP/2 with gRPC messages in its streams.
    Grpc,
    /// A head of HTTP/1, and then any bytes.
    Http1,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 8] = [
        Self::AgentQuic,
        Self::AgentH2,
        Self::AgentKonnectivity,
        Self::ServerQuic,
        Self::ServerH2,
        Self::ServerKonnectivity,
        Self::ClientConnect,
        Self::ClientGrpc,
    ];

    /// The name: of its folder in the corpus, and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentQuic => "agent-quic",
            Self::AgentH2 => "agent-h2",
            Self::AgentKonnectivity => "agent-konnectivity",
            Self::ServerQuic => "server-quic",
            Self::ServerH2 => "server-h2",
            Self::ServerKonnectivity => "server-konnectivity",
            Self::ClientConnect => "client-connect",
            Self::ClientGrpc => "client-grpc",
        }
    }

    /// The kind of trial, for scores.
    pub const fn score(self) -> &'static str {
        match self {
            Self::AgentQuic => "mutated sessions of agents on quic",
            Self::AgentH2 => "mutated sessions of agents on h2",
            Self::AgentKonnectivity => "mutated sessions of agents on konnectivity",
            Self::ServerQuic => "mutated sessions of servers on quic",
            Self::ServerH2 => "mutated sessions of servers on h2",
            Self::ServerKonnectivity => "mutated sessions of servers on konnectivity",
            Self::ClientConnect => "mutated sessions of clients with HTTP CONNECT",
            Self::ClientGrpc => "mutated sessions of clients with gRPC",
        }
    }

    /// The protocol.
    pub const fn speech(self) -> Speech {
        match self {
            Self::AgentQuic | Self::ServerQuic => Speech::Quic,
            Self::AgentH2 | Self::ServerH2 => Speech::Http2,
            Self::AgentKonnectivity | Self::ServerKonnectivity | Self::ClientGrpc => Speech::Grpc,
            Self::ClientConnect => Speech::Http1,
        }
    }

    /// The target for which a server dials the agent that plays, if an agent plays. Each lane has its own,
    /// so that no other agent gets the dial.
    pub const fn served(self) -> Option<&'static str> {
        match self {
            Self::AgentQuic => Some("127.1.0.1"),
            Self::AgentH2 => Some("127.1.0.2"),
            Self::AgentKonnectivity => Some("127.1.0.3"),
            Self::ServerQuic
            | Self::ServerH2
            | Self::ServerKonnectivity
            | Self::ClientConnect
            | Self::ClientGrpc => None,
        }
    }

    /// Whether a server plays: it has to wait for the agent under test.
    pub const fn waits_for_an_agent(self) -> bool {
        matches!(self, Self::ServerQuic | Self::ServerH2 | Self::ServerKonnectivity)
    }

    /// Whether the first bytes received are HTTP/2's preface, which is no frame: the other end is HTTP/2's
    /// client.
    pub(crate) const fn hears_a_preface(self) -> bool {
        matches!(self, Self::AgentH2 | Self::ServerKonnectivity)
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Lane {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|lane| lane.name() == text);
        found.ok_or_else(|| format!("no lane {text:?}; lanes are {}", names()))
    }
}
