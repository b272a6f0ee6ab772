//! The settings of a running program that `doctor` checks.

use serde::{Deserialize, Serialize};

use super::Expiry;

/// Most agents in a [`ServerSetup`].
pub const MOST_AGENTS: usize = 50;

/// The settings of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Setup {
    /// A server's.
    Server(ServerSetup),
    /// An agent's.
    Agent(AgentSetup),
}

/// The settings of a server. An empty path is a flag that is not given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerSetup {
    /// The server's id.
    pub id: String,
    /// Address of the listener of agents, TCP and UDP.
    pub agents: String,
    /// Unix socket of the frontend.
    pub unix: String,
    /// Port of the frontend on TCP.
    pub tcp: Option<u16>,
    /// The only protocol of the frontends, `grpc` or `http-connect`; both if `None`.
    pub mode: Option<String>,
    /// The strategies of routing, in order.
    pub strategies: Vec<String>,
    /// Agents need no certificate and no token.
    pub anonymous: bool,
    /// The certificates of all flags.
    pub certificates: Vec<Expiry>,
    /// `--cluster-cert`.
    pub cluster_cert: String,
    /// `--kubeconfig`.
    pub kubeconfig: String,
    /// Connected agents: at most [`MOST_AGENTS`] of them.
    pub connected: Vec<Connected>,
}

/// An agent that is connected to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connected {
    /// Its id.
    pub id: String,
    /// Its identity, by its token or certificate.
    pub identity: String,
    /// The names and addresses for which it gets dials.
    pub hosts: Vec<String>,
    /// The datagrams of its tunnel, on QUIC.
    pub datagram: Option<Datagram>,
}

/// Sizes of the datagrams of a QUIC tunnel, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Datagram {
    /// The largest that the path is known to carry.
    pub now: u16,
    /// The largest that this end tries.
    pub most: u16,
}

/// The settings of an agent. An empty path is a flag that is not given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentSetup {
    /// The agent's id.
    pub id: String,
    /// The servers of the flags.
    pub servers: Vec<Named>,
    /// `--transport`.
    pub transport: String,
    /// The ALPN protocols that are offered on TCP.
    pub alpn: Vec<String>,
    /// `--ca-cert`.
    pub ca_cert: String,
    /// `--agent-cert`.
    pub agent_cert: String,
    /// `--agent-key`.
    pub agent_key: String,
    /// `--service-account-token-path`.
    pub token: String,
    /// `--kubeconfig`.
    pub kubeconfig: String,
    /// The identifiers, in the form of the flag.
    pub identifiers: String,
    /// The names and addresses among the identifiers.
    pub hosts: Vec<String>,
    /// The certificates of all flags.
    pub certificates: Vec<Expiry>,
    /// The datagrams of each tunnel on QUIC.
    pub datagrams: Vec<Datagram>,
}

/// A server that an agent's flags name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Named {
    /// Host name or address.
    pub host: String,
    /// TCP and UDP port.
    pub port: u16,
    /// The proxy in between, on TCP.
    pub proxy: Option<String>,
}
